"""The store's disk is full: a clear error, everything as before, and well once there is room."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from envstack.client import RemoteError
from tests.crash.crashbox import DOWN, FIRST, SECOND, UP
from tests.crash.pauses import LIVE, SWAP, WITHIN, paused
from tests.crash.promises import Expected, check_promises, check_tree
from tests.support.edits import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from envstack.environment.steps import Step
    from tests.crash.crashbox import Crashbox
    from tests.support.trees import Tree

pytestmark = pytest.mark.kernel

_KIB = 1024
_BLOCK = 4 * _KIB
ROOM = [number * _BLOCK for number in (0, 1, 2, 4, 8, 16, 64)]
"""Bytes that are left: an operation takes some tens of KiB and fails at another place with each."""
MORE_ROOM = [(2 << 20) + room for room in ROOM]
"""Likewise, if the database has taken two MiB before anything is done."""

each_room = pytest.mark.parametrize("room", ROOM)
each_disk = pytest.mark.parametrize("kind", ["tmpfs", "ext4"])


class Disk:
    """A small file system that can be filled up to some bytes."""

    def __init__(self, root: Path) -> None:
        self._filler = root / "filler"
        self._ballast = root / "home" / "ballast"

    def fill(self, room: int) -> None:
        """Leave `room` bytes, rounded up to a block of the file system.

        What the store holds back for such a time is spent: the disk was full before.
        """
        self._ballast.unlink(missing_ok=True)
        piece = 1 << 22
        with self._filler.open("wb") as file:
            while piece >= _BLOCK:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, piece)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece //= 2
            os.ftruncate(file.fileno(), max(0, os.fstat(file.fileno()).st_size - room))
            os.fsync(file.fileno())

    def free(self) -> None:
        """Take the filling away."""
        self._filler.unlink()


@pytest.fixture
def disk(filesystem: Callable[[str], Path], kind: str) -> Path:
    return filesystem(kind)


@pytest.fixture
def box(make_crashbox: Callable[[Path], Crashbox], disk: Path) -> Crashbox:
    """An environment with one checkpoint and changes after it, its store on a small disk."""
    made = make_crashbox(disk / "home")
    made.up()
    made.edit(*FIRST)
    made.remember(made.checkpoint("first", tag="first")["id"])
    made.edit(*SECOND)
    made.books.wait_until_in_order()
    return made


def attempt(act: Callable[[], object]) -> bool:
    """Act; return whether it was done, and fail unless a failure is told as want of space."""
    try:
        act()
    except RemoteError as error:
        told = error
    else:
        return True
    assert (told.kind, told.exit_code) == ("failed", 1), told
    assert names_space(told.message), told
    assert "space" in told.hint, told.hint
    return False


def names_space(message: str) -> bool:
    """Tell whether a message says what is lacking."""
    return "full" in message or "no space" in message.lower()


@each_disk
@each_room
def test_a_checkpoint_without_space_changes_nothing(box: Crashbox, disk: Path, room: int) -> None:
    now = box.judge.now()
    filled = Disk(disk)
    filled.fill(room)
    done = attempt(box.checkpoint)
    assert box.mounts() == [str(box.merged)]
    check_tree(box, [now])
    assert box.status()["state"] == UP
    assert len(box.log()) == (2 if done else 1)
    filled.free()
    check_promises(box, Expected(((UP, now),), born=now))


@each_disk
@each_room
def test_a_rollback_without_space_changes_nothing(box: Crashbox, disk: Path, room: int) -> None:
    now, first = box.judge.now(), box.known[box.log()[0]["id"]]
    filled = Disk(disk)
    filled.fill(room)
    done = attempt(lambda: box.rollback("first"))
    assert box.mounts() == [str(box.merged)]
    shown: list[Tree] = [first if done else now]
    check_tree(box, shown)
    assert box.status()["state"] == UP
    assert len(box.log()) == (2 if done else 1)
    filled.free()
    check_promises(box, Expected(((UP, shown[0]),), born=now))


@each_disk
@pytest.mark.parametrize("step", SWAP)
@pytest.mark.parametrize("method", ["checkpoint", "rollback"])
def test_a_disk_that_fills_up_in_a_step_harms_nothing(
    box: Crashbox, disk: Path, method: str, step: Step
) -> None:
    now, first = box.judge.now(), box.known[box.log()[0]["id"]]
    filled = Disk(disk)
    params = {"rev": "first"} if method == "rollback" else {}
    with paused(box, step, method, **params) as answer:
        filled.fill(0)
    done = attempt(lambda: answer.result(WITHIN))
    assert box.mounts() == [str(box.merged)]
    assert box.status()["state"] == UP
    assert not os.statvfs(box.merged).f_flag & os.ST_RDONLY
    after = (UP, first if method == "rollback" else now)
    filled.free()
    check_promises(box, Expected((after,) if done else ((UP, now), after), born=now))


@pytest.mark.parametrize("kind", ["ext4"])
@pytest.mark.parametrize("room", [ROOM[0], ROOM[2], ROOM[4], (1 << 20) + ROOM[5]])
def test_a_live_checkpoint_without_space_changes_nothing(
    box: Crashbox, disk: Path, room: int
) -> None:
    box.edit(write("large", "x" * (1 << 20)))
    now = box.judge.now()
    filled = Disk(disk)
    filled.fill(room)
    done = attempt(lambda: box.checkpoint(mode="live"))
    check_tree(box, [now])
    assert os.listdir(box.home / "staging") == []
    assert len(box.log()) == (2 if done else 1)
    filled.free()
    check_promises(box, Expected(((UP, now),), born=now))


@pytest.mark.parametrize("kind", ["ext4"])
@pytest.mark.parametrize("step", LIVE)
def test_nor_does_one_whose_disk_fills_up_in_a_step(box: Crashbox, disk: Path, step: Step) -> None:
    now = box.judge.now()
    filled = Disk(disk)
    with paused(box, step, "checkpoint", mode="live") as answer:
        filled.fill(0)
    attempt(lambda: answer.result(WITHIN))
    assert os.listdir(box.home / "staging") == []
    filled.free()
    box.edit(write("kept", "goes on\n"))
    again = box.judge.now()
    box.known[box.checkpoint(mode="live")["id"]] = again
    check_promises(box, Expected(((UP, again),), born=now))


@each_disk
@each_room
def test_an_environment_can_be_taken_down_and_up_on_a_full_disk_or_stays(
    box: Crashbox, disk: Path, room: int
) -> None:
    now = box.judge.now()
    filled = Disk(disk)
    filled.fill(room)
    if attempt(box.down):
        assert box.mounts() == []
        attempt(box.up)
    filled.free()
    check_promises(box, Expected(((UP, now), (DOWN, now))))


@each_disk
@pytest.mark.parametrize("room", ROOM + MORE_ROOM)
def test_an_environment_that_does_not_fit_leaves_nothing_behind(
    make_crashbox: Callable[[Path], Crashbox], disk: Path, room: int
) -> None:
    box = make_crashbox(disk / "home")
    copied = [{"name": name, "dir": name, "copy": True} for name in ("bottom", "top")]
    box.declare({"layers": copied})
    box.environments()
    filled = Disk(disk)
    filled.fill(room)
    base = box.known["base"]
    if not attempt(box.up):
        assert box.mounts() == []
        assert not any(os.scandir(box.home / "staging"))
        assert not any(os.scandir(box.home / "layers"))
        assert box.environments() == []
    filled.free()
    box.up()
    check_promises(box, Expected(((UP, base),)))


@each_disk
@pytest.mark.parametrize("room", [0, _BLOCK, 4 * _BLOCK])
def test_a_daemon_that_is_killed_on_a_full_disk_is_followed_by_one_that_says_so_or_works(
    box: Crashbox, disk: Path, room: int
) -> None:
    now = box.judge.now()
    filled = Disk(disk)
    filled.fill(room)
    box.kill_daemon()
    verdict = box.start()
    assert verdict is not None
    if "error" in verdict:
        assert (verdict["error"]["kind"], verdict["error"]["exit"]) == ("failed", 1), verdict
        assert names_space(verdict["error"]["message"]), verdict
    check_tree(box, [now])
    filled.free()
    check_promises(box, Expected(((UP, now),)))


@each_disk
@pytest.mark.parametrize("room", [0, _BLOCK, 4 * _BLOCK])
def test_a_daemon_that_has_ended_is_not_started_on_a_full_disk_or_works(
    box: Crashbox, disk: Path, room: int
) -> None:
    now = box.judge.now()
    box.stop_daemon()
    filled = Disk(disk)
    filled.fill(room)
    verdict = box.start()
    assert verdict is not None
    if "error" in verdict:
        assert (verdict["error"]["kind"], verdict["error"]["exit"]) == ("failed", 1), verdict
        assert names_space(verdict["error"]["message"]), verdict
    check_tree(box, [now])
    filled.free()
    check_promises(box, Expected(((UP, now),)))
