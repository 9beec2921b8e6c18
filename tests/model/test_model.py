"""The merged tree is a plain directory with a history, whatever is done to it, in any order.

`ENVSTACK_MODEL=long` runs it for about half an hour. A failure prints what led to it, and a blob
that `hypothesis.reproduce_failure` takes.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support import filesystems, trees, ways
from tests.support.edits import apply
from tests.support.judge import Judge
from tests.support.machine import LAYERS, explore
from tests.support.mixed import mix
from tests.support.profiles import CHOSEN, FEW, HUNT, QUICK
from tests.support.reference import Reference
from tests.support.sandbox import Throwaway

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.ground import Ground

pytestmark = pytest.mark.kernel


@pytest.mark.slow
@pytest.mark.usefixtures("propagation")
@pytest.mark.parametrize("mount", [".envstack/merged", "."])
def test_an_environment_is_a_plain_directory_with_a_history(ground: Ground, mount: str) -> None:
    def begin() -> tuple[Throwaway, Judge]:
        project = ground.fresh("p")
        project.mkdir()
        subject = Throwaway(ground.fresh("h"), project, LAYERS, mount)
        return subject, Judge(ground.fresh("j"), *LAYERS.values())

    explore(begin, CHOSEN)


@pytest.mark.slow
@pytest.mark.parametrize("kind", filesystems.FILESYSTEMS)
def test_so_it_is_with_a_store_on_each_file_system(
    ground: Ground, filesystem: Callable[[str], Path], kind: str
) -> None:
    """The judge lies there too, for what fits into a link is the file system's own affair."""
    disk = filesystem(kind)
    numbers = itertools.count()

    def begin() -> tuple[Throwaway, Judge]:
        project, number = ground.fresh("p"), next(numbers)
        project.mkdir()
        subject = Throwaway(disk / f"h{number}", project, LAYERS)
        return subject, Judge(disk / f"j{number}", *LAYERS.values())

    explore(begin, FEW)


@pytest.mark.slow
def test_so_it_is_where_mounts_are_exchanged_in_turn(ground: Ground) -> None:
    def begin() -> tuple[Throwaway, Judge]:
        project = ground.fresh("p")
        project.mkdir()
        subject = Throwaway(ground.fresh("h"), project, LAYERS, daemon=ways.daemon(ways.OLDER))
        return subject, Judge(ground.fresh("j"), *LAYERS.values())

    explore(begin, settings(CHOSEN, max_examples=max(1, CHOSEN.max_examples // 5)))


@pytest.mark.slow
def test_so_it_is_with_others_inside_and_in_every_mode(ground: Ground) -> None:
    def begin() -> tuple[Throwaway, Judge]:
        project = ground.fresh("p")
        project.mkdir()
        subject = Throwaway(ground.fresh("h"), project, LAYERS)
        return subject, Judge(ground.fresh("j"), *LAYERS.values())

    mix(begin, FEW)


def explore_by_hand(ground: Ground, kind: type[Reference], how: settings) -> None:
    def begin() -> tuple[Reference, Judge]:
        place = ground.fresh("r")
        place.mkdir()
        for name, edits in LAYERS.items():
            (place / name).mkdir()
            (place / name).chmod(0o755)
            apply(place / name, *edits)
        return kind(place, list(LAYERS)), Judge(ground.fresh("j"), *LAYERS.values())

    explore(begin, how)


def test_the_model_holds_for_overlayfs_by_hand(ground: Ground) -> None:
    explore_by_hand(ground, Reference, QUICK)


class ForgetsTheRoot(Reference):
    def dress_root(self, fresh: Path) -> None:
        fresh.chmod(0o755)


class SealsBelowTheOthers(Reference):
    def sealed_chain(self, upper: str, lowers: list[str]) -> list[str]:
        return [*lowers, upper]


class ForgetsWhatWasReplaced(Reference):
    """Seals directories that were made anew without their mark."""

    def sealed_chain(self, upper: str, lowers: list[str]) -> list[str]:
        for directory, names, _ in os.walk(self.place / upper):
            for name in names:
                path = os.path.join(directory, name)
                if "trusted.overlay.opaque" in os.listxattr(path):
                    os.removexattr(path, "trusted.overlay.opaque")
        return [upper, *lowers]


class DiffersByBytesAlone(Reference):
    def changes(self, before: trees.Tree, after: trees.Tree) -> set[tuple[bytes, str, str]]:
        return {
            (path, change, kind)
            for path, change, kind in trees.changes(before, after)
            if change != "modified" or before[path].digest != after[path].digest
        }


class LosesWhatIsNotSealed(Reference):
    def rollback(self, rev: str = "@", *, discard: bool = False) -> dict[str, object]:
        return super().rollback(rev, discard=True)


class LaysNothingAnew(Reference):
    def relay(self) -> dict[str, object]:
        return {"saved": None}


@pytest.mark.parametrize(
    "kind",
    [
        LaysNothingAnew,
        ForgetsTheRoot,
        SealsBelowTheOthers,
        ForgetsWhatWasReplaced,
        DiffersByBytesAlone,
        LosesWhatIsNotSealed,
    ],
)
def test_the_model_finds_what_is_wrong(ground: Ground, kind: type[Reference]) -> None:
    with pytest.raises(AssertionError):
        explore_by_hand(ground, kind, HUNT)
