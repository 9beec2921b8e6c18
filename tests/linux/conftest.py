"""Fixtures of the tests of this room."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from envstack.linux import syscalls
from envstack.linux.mountinfo import read_mounts
from tests.linux.overlays import mount_on
from tests.support import trees

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.ground import Ground


@pytest.fixture
def overlay(ground: Ground) -> Iterator[Callable[..., Path]]:
    """`overlay(upper=DIR)` mounts one that has `file` and `sub` below and `new` in the upper."""
    made = ground.fresh("o")
    made.mkdir()

    def mount(upper: Path = made / "upper", options: str = "index=off") -> Path:
        for name in ("upper", "work"):
            (upper / name).mkdir(parents=True)
        for name in ("lower", "merged"):
            (made / name).mkdir()
        (made / "lower" / "sub").mkdir()
        (made / "lower" / "file").write_text("lower")
        layers = f"lowerdir={made}/lower,upperdir={upper}/upper,workdir={upper}/work"
        mount_on(made / "merged", "-t", "overlay", "-o", f"{layers},{options}", "overlay")
        (made / "merged" / "new").write_text("upper")
        return made / "merged"

    yield mount
    for left in reversed(read_mounts()):
        if left.point.startswith(os.fsencode(made)):
            syscalls.umount(left.point, syscalls.MNT_DETACH)
    trees.remove(made)


@pytest.fixture
def merged(overlay: Callable[..., Path]) -> Path:
    """The mount point of an overlay whose layers are all on one file system."""
    return overlay()
