"""The promise of the feed: a mirror fed by it alone is the merged tree, whatever is done.

`ENVSTACK_MODEL=long` runs it for long. A failure prints what led to it, and a blob that
`hypothesis.reproduce_failure` takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import mutants, ways
from tests.support.edits import apply
from tests.support.feed import SocketSource
from tests.support.following import follow
from tests.support.judge import Judge
from tests.support.machine import LAYERS
from tests.support.profiles import CHOSEN, FEW, HUNT
from tests.support.sandbox import Throwaway
from tests.support.standin import FollowedReference, StandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypothesis import settings

    from tests.support.ground import Ground

pytestmark = pytest.mark.kernel


def follow_sandbox(ground: Ground, mount: str, daemon: Sequence[str], how: settings) -> None:
    def begin() -> tuple[Throwaway, Judge, SocketSource]:
        project = ground.fresh("p")
        project.mkdir()
        subject = Throwaway(ground.fresh("h"), project, LAYERS, mount, daemon)
        judge = Judge(ground.fresh("j"), *LAYERS.values())
        return subject, judge, SocketSource(subject)

    follow(begin, how)


@pytest.mark.slow
@pytest.mark.parametrize("mount", [".envstack/merged", "."])
def test_whatever_is_done_the_mirror_is_the_merged_tree(ground: Ground, mount: str) -> None:
    follow_sandbox(ground, mount, ways.daemon(ways.NEWER), CHOSEN)


@pytest.mark.slow
@pytest.mark.usefixtures("propagation")
def test_so_it_is_where_mounts_are_exchanged_in_turn(ground: Ground) -> None:
    follow_sandbox(ground, ".envstack/merged", ways.daemon(ways.OLDER), FEW)


@pytest.mark.slow
def test_so_it_is_where_the_queue_is_short_and_watches_are_few(
    ground: Ground, inotify_limit: Callable[[str, int], None]
) -> None:
    inotify_limit("max_queued_events", 16)
    inotify_limit("max_user_watches", 5)
    follow_sandbox(ground, ".envstack/merged", ways.daemon(ways.NEWER), FEW)


def follow_by_hand(ground: Ground, feed: type[StandIn], how: settings) -> None:
    def begin() -> tuple[FollowedReference, Judge, StandIn]:
        place = ground.fresh("r")
        place.mkdir()
        for name, edits in LAYERS.items():
            (place / name).mkdir()
            (place / name).chmod(0o755)
            apply(place / name, *edits)
        subject = FollowedReference(place, list(LAYERS), feed)
        return subject, Judge(ground.fresh("j"), *LAYERS.values()), subject.feed

    follow(begin, how)


def test_the_machine_holds_for_a_feed_by_hand(ground: Ground) -> None:
    follow_by_hand(ground, StandIn, CHOSEN)


@pytest.mark.parametrize(
    "feed",
    [
        mutants.DropsADeletion,
        mutants.DiffersByBytesAlone,
        mutants.TellsTreesByTheirTop,
        mutants.ShowsNamesAsText,
        mutants.ComparesAfterTheBarrier,
        mutants.ResumesAPlaceLate,
    ],
)
def test_the_machine_finds_what_is_wrong(ground: Ground, feed: type[StandIn]) -> None:
    with pytest.raises(AssertionError):
        follow_by_hand(ground, feed, HUNT)
