"""The promise of the feed where the kernel's queue of events is short, or its watches are few.

Both limits are the whole machine's, so these tests run by themselves and put them back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.feed.storms import LOWER, STORMS
from tests.support import needs, ways
from tests.support.profiles import IS_LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.feed.followed import Followed
    from tests.support.sandbox import Sandbox

    Follow = Callable[[Sandbox], Followed]
    Limit = Callable[[str, int], None]

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

WILD = ("nested_files", "many_directories", "many_at_once", "coming_and_going", "made_anew")


@pytest.fixture
def way() -> str:
    """The newer way alone: what is watched is an upper, however that is mounted."""
    return needs.way(ways.NEWER)


@pytest.fixture
def make(sandbox: Callable[..., Sandbox], follow: Follow) -> Callable[[], Followed]:
    """`make()` brings an environment up, under whatever limit was set before."""
    return lambda: follow(sandbox(base=LOWER))


@pytest.mark.parametrize(
    ("name", "length"),
    [
        *((name, 16) for name in WILD),
        (WILD[0], 512),
        *((name, 512) for name in WILD[1:] if IS_LONG),
    ],
)
def test_a_storm_that_the_queue_cannot_hold_is_told(
    make: Callable[[], Followed], inotify_limit: Limit, name: str, length: int
) -> None:
    inotify_limit("max_queued_events", length)
    followed = make()
    followed.ride(STORMS[name])
    sealed = followed.checkpoint()
    followed.rollback("base")
    followed.rollback(sealed)


@pytest.mark.parametrize("name", WILD)
def test_a_storm_in_more_directories_than_can_be_watched_is_told(
    make: Callable[[], Followed], inotify_limit: Limit, name: str
) -> None:
    followed = make()
    inotify_limit("max_user_watches", 30)
    followed.ride(STORMS[name])
    followed.ride(unwatched_changes)


def test_an_environment_that_cannot_be_watched_at_all_is_followed(
    make: Callable[[], Followed], inotify_limit: Limit
) -> None:
    inotify_limit("max_user_watches", 1)
    followed = make()
    followed.ride(STORMS["made_anew"])
    followed.checkpoint()
    followed.ride(unwatched_changes)
    followed.rollback("base")


def unwatched_changes(root: Path) -> Iterator[None]:
    """Small changes, deep down, in what is there by now."""
    for place in sorted(path for path in root.rglob("*") if path.is_dir())[::50]:
        (place / "found").write_text("by looking\n")
        (place / "empty").mkdir()
    yield
    for path in [*root.rglob("found")]:
        path.write_text("at everything\n")
    yield
