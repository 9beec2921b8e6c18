"""The promise of the feed under storms: a mirror fed by it alone is the merged tree.

`ENVSTACK_MODEL=long` runs the storms in full size.
"""

from __future__ import annotations

import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.feed.storms import LOWER, STORMS
from tests.support.filesystems import FILESYSTEMS
from tests.support.profiles import IS_LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.feed.followed import Followed
    from tests.feed.storms import Storm
    from tests.support.sandbox import Sandbox

    Follow = Callable[[Sandbox], Followed]

pytestmark = pytest.mark.kernel

HARD = ("made_anew", "hard_links", "changes_of_kind", "mappings", "rewrites", "renames_over")
"""Storms in which much depends on the file system, or on how layers are looked through."""

LARGE = ("nested_files", "git", "pip")

UNDER_FIRE = (*HARD, "nested_files", "git", "many_directories", "ring_of_renames", "odd_names")
"""The long run has every storm told by daemons that are killed."""

every_storm = pytest.mark.parametrize(
    "storm",
    [
        pytest.param(storm, id=name, marks=[pytest.mark.slow] * (name in LARGE))
        for name, storm in STORMS.items()
    ],
)


def wreck(root: Path) -> Iterator[None]:
    """Move every file at the top, and remove or change every directory there."""
    for number, path in enumerate(sorted(root.iterdir())):
        if path.is_file():
            path.rename(root / f"wrecked {number}")
        elif number % 2:
            subprocess.run(["rm", "-rf", path], check=True)
        elif path.is_dir():
            path.chmod(0o700)
    (root / "wreck").write_text("all that is left\n")
    yield


def take_through_history(followed: Followed, storm: Storm) -> None:
    """Seal what the storm left, wreck that, and go back to it and to before it."""
    followed.ride(storm)
    sealed = followed.checkpoint()
    followed.ride(wreck)
    followed.rollback(sealed)
    followed.rollback("base")
    followed.rollback(sealed)
    followed.check_resumptions()


@every_storm
def test_a_storm_is_told_and_so_is_the_way_back(followed: Followed, storm: Storm) -> None:
    take_through_history(followed, storm)
    assert followed.mirror.fresh == 0, "a daemon that lived lost its place"


@pytest.mark.usefixtures("propagation")
@pytest.mark.parametrize("mount", [".envstack/merged", "."])
@pytest.mark.parametrize("name", HARD if IS_LONG else HARD[:1])
def test_so_it_is_wherever_and_however_it_is_mounted(
    sandbox: Callable[..., Sandbox], follow: Follow, name: str, mount: str
) -> None:
    followed = follow(sandbox(mount=mount, base=LOWER))
    take_through_history(followed, STORMS[name])


@pytest.mark.parametrize("name", HARD if IS_LONG else HARD[:1])
@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_so_it_is_with_a_store_on_each_file_system(
    sandbox: Callable[..., Sandbox],
    follow: Follow,
    filesystem: Callable[[str], Path],
    kind: str,
    name: str,
) -> None:
    followed = follow(sandbox(store=filesystem(kind) / "store", base=LOWER))
    take_through_history(followed, STORMS[name])


@pytest.mark.parametrize("name", STORMS if IS_LONG else UNDER_FIRE)
def test_a_storm_is_told_by_daemons_that_are_killed_at_random(
    followed: Followed, name: str
) -> None:
    seed = random.randrange(1 << 32)
    print(f"moments of death are of the seed {seed}")
    followed.ride_under_fire(STORMS[name], seed)
    assert followed.mirror.fresh == 0, "a place was lost that was in the journal"
    followed.check_resumptions()
