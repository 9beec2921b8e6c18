"""The disk under the store fails to write: nothing is called durable that may be lost."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from envstack.client import RemoteError
from tests.support import filesystems, needs, waiting
from tests.support.edits import apply, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.crash.crashbox import Crashbox
    from tests.support.ground import Ground

pytestmark = pytest.mark.kernel

_MIB = 1 << 20
_ROOM = 2 * _MIB
_MUCH = 16 * _MIB
_SIZE = 40 * _MIB
_WITHIN = 20.0


@pytest.fixture
def outer(filesystem: Callable[[str], Path]) -> Path:
    """A small file system that holds a disk of which not every block fits."""
    return filesystem("tmpfs")


@pytest.fixture
def point(outer: Path, ground: Ground) -> Iterator[Path]:
    """Where the disk is mounted: it has all its blocks but the free ones, at first."""
    place = ground.fresh("s")
    place.mkdir()
    disk = outer / "disk"
    filesystems.make("ext4", disk, _SIZE)
    with disk.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, _SIZE)
    filesystems.mount_image("ext4", disk, place)
    yield place
    filesystems.unmount(disk, place)
    place.rmdir()


@pytest.fixture
def box(point: Path, make_crashbox: Callable[[Path], Crashbox]) -> Iterator[Crashbox]:
    """An environment that is up, its store on that disk, one checkpoint durable."""
    made = make_crashbox(point / "home")
    made.up()
    apply(made.merged, write("first"))
    made.checkpoint(sync=True)
    made.books.wait_until_in_order()
    yield made
    made.close()


def fail(outer: Path, point: Path) -> Path:
    """Take the disk's free blocks away: writing most of them is EIO until the file is deleted."""
    subprocess.run([needs.program("fstrim"), point], check=True)
    filler = outer / "filler"
    free = os.statvfs(outer).f_bavail * os.statvfs(outer).f_frsize
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - _ROOM)
    return filler


@pytest.mark.parametrize("sync", [True, False])
def test_what_the_disk_failed_to_write_is_damaged_and_never_durable(
    box: Crashbox, outer: Path, point: Path, sync: bool
) -> None:
    filler = fail(outer, point)
    (box.merged / "much").write_bytes(os.urandom(_MUCH))
    if sync:
        with pytest.raises(RemoteError) as told:
            box.checkpoint("lost", sync=True)
        assert told.value.exit_code in (1, 6), "the database may not be writable either"
    else:
        box.checkpoint("lost")
        waiting.until(lambda: "the disk failed" in _log(box), "the error", _WITHIN)
    filler.unlink()
    waiting.until(lambda: bool(box.log()[0]["damaged"]), "the verdict", _WITHIN)
    assert not box.log()[0]["durable"]
    with pytest.raises(RemoteError, match="the disk failed") as told:
        box.rollback()
    assert told.value.exit_code == 6
    assert not box.log()[1]["damaged"]
    (box.merged / "much").unlink()
    # What failed while there was no space may be told to the next one too.
    waiting.until(lambda: is_synced(box), "a durable checkpoint, with space again", _WITHIN)
    assert not box.log()[0]["damaged"]


def is_synced(box: Crashbox) -> bool:
    """Make a checkpoint with --sync, and tell whether that succeeded."""
    try:
        return bool(box.checkpoint(sync=True)["durable"])
    except RemoteError:
        return False


def _log(box: Crashbox) -> str:
    return (box.home / "daemon.log").read_text(errors="replace")
