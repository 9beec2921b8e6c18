"""A full disk is no dead end: what makes room can still be recorded."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from envstack.environment.steps import Step
from envstack.store.ballast import Ballast, free
from tests.environment.harness import Engine
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.sandbox import Sandbox

pytestmark = pytest.mark.kernel


def fill(disk: Path) -> Path:
    """Take all the space there is, and return the file that has it."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        piece = 1 << 22
        while piece >= 4096:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, piece)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece //= 2
    return filler


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_it_is_let_go_on_a_full_disk_and_held_again(
    filesystem: Callable[[str], Path], kind: str
) -> None:
    disk = filesystem(kind)
    ballast = Ballast(os.fsencode(disk))
    ballast.hold()
    held = disk / "ballast"
    assert held.stat().st_blocks * 512 >= 1 << 20
    filler = fill(disk)
    assert free(bytes(disk)) < 1 << 16
    assert ballast.release(1 << 19)
    assert not held.exists()
    filler.unlink()
    ballast.hold()
    assert held.exists()


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_on_a_full_disk_discarding_and_purging_make_room(
    filesystem: Callable[[str], Path], sandbox: Callable[..., Sandbox], kind: str
) -> None:
    disk = filesystem(kind)
    box = sandbox(store=disk / "home", base=[])
    box.up()
    fill(box.merged)
    box.rollback("base", discard=True)
    assert not (box.merged / "filler").exists()
    waiting.until((disk / "home" / "ballast").exists, "the space held again")
    fill(box.merged)
    box.down()
    box.down(purge=True)
    assert box.environments() == []


def test_there_is_room_for_an_upper_that_was_not_made_ahead(
    filesystem: Callable[[str], Path], project: Path
) -> None:
    filled = threading.Event()
    with Engine(filesystem("ext4") / "home", project, {"base": []}) as engine:
        engine.at[Step.SPARE] = lambda: filled.wait(10)
        engine.up()
        filler = fill(engine.merged)
        try:
            engine.rollback("base", discard=True)
        finally:
            filled.set()
        assert not filler.exists()
