"""Reading the mount table, walking in it, and waiting for its changes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from envstack.linux import syscalls
from envstack.linux.mountinfo import (
    Mount,
    MountTableWatch,
    mounts_inside,
    mounts_over,
    parse_mounts,
    read_mounts,
    stack_at,
    topmost_at,
)
from tests.support import trees
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.ground import Ground

STACKED = b"""\
1 1 0:2 / / rw - rootfs rootfs rw
31 20 0:31 / /a/b rw - tmpfs upper rw
20 1 8:1 / / rw - ext4 /dev/sda1 rw
30 20 0:30 / /a/b/c rw - tmpfs hidden rw
32 31 0:32 / /a/b/c rw - tmpfs low rw
34 33 0:34 / /a/b/c/d rw - tmpfs inner rw
33 32 0:33 / /a/b/c rw - tmpfs high rw
35 31 0:35 / /a/bc rw - tmpfs sibling rw
"""


def test_every_field_is_read_and_octal_escapes_are_undone() -> None:
    line = (
        rb"36 35 98:0 /mnt\0401 /a\011b\012c\134d rw,noatime master:1 shared:7"
        rb" - fuse.x\040y some\043one rw,lowerdir=a\054b" + b"\n"
    )
    assert parse_mounts(line) == [
        Mount(
            id=36,
            parent=35,
            device="98:0",
            root=b"/mnt 1",
            point=b"/a\tb\nc\\d",
            options=frozenset({"rw", "noatime"}),
            optional=("master:1", "shared:7"),
            fstype="fuse.x y",
            source=b"some#one",
            super_options=rb"rw,lowerdir=a\054b",
        )
    ]


def test_a_mount_without_a_source_has_an_empty_one() -> None:
    (mount,) = parse_mounts(b"36 35 0:40 / /a rw - tmpfs  rw,size=4k\n")
    assert (mount.source, mount.super_options) == (b"", b"rw,size=4k")


def test_the_walk_follows_parents_whatever_the_order_of_lines() -> None:
    mounts = parse_mounts(STACKED)
    for order in (mounts, mounts[::-1]):
        assert [mount.source for mount in stack_at(order, b"/a/b/c")] == [b"low", b"high"]
        topmost = topmost_at(order, b"/a/b/c")
        assert topmost is not None
        assert topmost.source == b"high"
        assert [mount.id for mount in stack_at(order, b"/")] == [1, 20]


@pytest.mark.parametrize("point", [b"/a", b"/a/b/c/d/e", b"/nowhere"])
def test_nothing_is_topmost_where_nothing_is_mounted(point: bytes) -> None:
    assert topmost_at(parse_mounts(STACKED), point) is None


def test_the_walk_starts_at_mounts_whose_parent_is_out_of_reach() -> None:
    mounts = parse_mounts(b"50 49 0:50 / /proc rw - proc p rw\n51 50 0:51 / /proc/x rw - t t rw\n")
    assert [mount.id for mount in stack_at(mounts, b"/proc/x")] == [51]


def test_inside_goes_by_parents_and_leaves_out_what_covers() -> None:
    mounts = parse_mounts(STACKED)
    upper, low = mounts[1], mounts[4]
    assert {mount.source for mount in mounts_inside(mounts, upper)} == {
        b"low",
        b"high",
        b"inner",
        b"sibling",
    }
    assert mounts_inside(mounts, low) == []
    assert [mount.source for mount in mounts_over(mounts, low)] == [b"high", b"inner"]


def test_a_process_that_has_ended_has_no_mounts() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError, match="has ended"):
            read_mounts(child.pid)


@pytest.fixture
def directory(ground: Ground) -> Iterator[Path]:
    """A directory whose name needs escapes; what is mounted there or below is taken off at last."""
    path = ground.fresh("m") / "a b\tc\nd\\e#ü"
    path.mkdir(parents=True)
    yield path
    for mount in reversed(read_mounts()):
        if mount.point.startswith(os.fsencode(path)):
            syscalls.umount(mount.point, syscalls.MNT_DETACH)
    trees.remove(path.parent)


@pytest.fixture
def tmpfs(directory: Path) -> Callable[[str], None]:
    """`tmpfs("name")` mounts one of that source over the directory."""
    return lambda source: mount_tmpfs(source, directory)


def mount_tmpfs(source: str, path: Path) -> None:
    subprocess.run(["mount", "-i", "-t", "tmpfs", source, path], check=True)


def beneath(path: Path) -> None:
    """Put a new tmpfs beneath what is mounted at `path`."""
    context = syscalls.fsopen(b"tmpfs")
    syscalls.fsconfig_string(context, b"source", b"beneath")
    syscalls.fsconfig_create(context)
    mount = syscalls.fsmount(context, 0)
    target = os.open(path, os.O_PATH)
    syscalls.move_mount(mount, target, syscalls.MOVE_MOUNT_BENEATH)
    for descriptor in (context, mount, target):
        os.close(descriptor)


@pytest.mark.kernel
def test_what_is_visible_is_what_stat_says(
    propagation: str, directory: Path, tmpfs: Callable[[str], None]
) -> None:
    point = os.fsencode(directory)
    tmpfs("first")
    tmpfs("second")
    beneath(directory)
    tmpfs("third")
    mounts = read_mounts()
    assert [mount.source for mount in stack_at(mounts, point)] == [
        b"first",
        b"beneath",
        b"second",
        b"third",
    ]
    topmost = topmost_at(mounts, point)
    assert topmost is not None
    assert topmost.id == syscalls.mount_id(point)
    number = directory.stat().st_dev
    assert topmost.device == f"{os.major(number)}:{os.minor(number)}"
    assert any(tag.startswith("shared:") for tag in topmost.optional) == (propagation == "shared")


@pytest.mark.kernel
def test_a_hidden_mount_is_inside_though_not_visible(
    directory: Path, tmpfs: Callable[[str], None]
) -> None:
    tmpfs("outer")
    (directory / "x" / "y").mkdir(parents=True)
    mount_tmpfs("deep", directory / "x" / "y")
    mount_tmpfs("cover", directory / "x")
    mounts = read_mounts()
    outer = topmost_at(mounts, os.fsencode(directory))
    assert outer is not None
    assert {mount.source for mount in mounts_inside(mounts, outer)} == {b"deep", b"cover"}
    assert topmost_at(mounts, os.fsencode(directory / "x" / "y")) is None


@pytest.mark.kernel
def test_the_watch_tells_of_a_change_between_two_waits(
    directory: Path, tmpfs: Callable[[str], None]
) -> None:
    with MountTableWatch() as watch:
        tmpfs("before")
        assert watch.wait()
        tmpfs("between")
        syscalls.umount(os.fsencode(directory))
        assert watch.wait()
        watch.stop()
        assert not watch.wait()


@pytest.mark.kernel
def test_the_watch_wakes_a_thread_that_waits(directory: Path, tmpfs: Callable[[str], None]) -> None:
    with MountTableWatch() as watch, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(watch.wait)
        tmpfs("any")
        assert waiting.result(timeout=10)


@pytest.mark.kernel
def test_stopping_the_watch_wakes_a_thread_that_waits() -> None:
    results: list[bool] = []
    with MountTableWatch() as watch:
        thread = threading.Thread(target=lambda: results.append(wait_until_stopped(watch)))
        thread.start()
        watch.stop()
        thread.join(10)
        assert not thread.is_alive()
    assert results == [False]


@pytest.mark.kernel
def test_leaving_the_context_lets_a_waiting_thread_return() -> None:
    with ThreadPoolExecutor(1) as threads:
        with MountTableWatch() as watch:
            waiting = threads.submit(wait_until_stopped, watch)
            until(watch._waiting.locked, "the thread waits")
        assert waiting.result(timeout=10) is False
    with pytest.raises(ValueError, match="closed file"):
        watch.wait()


def wait_until_stopped(watch: MountTableWatch) -> bool:
    """Wait on through changes that others made to the table."""
    while watch.wait():
        pass
    return False
