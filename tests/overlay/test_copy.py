"""`copy_tree` against what a look at source and copy tells."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import stat
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from envstack.errors import Unsupported
from envstack.overlay.copy import copy_tree
from tests.support import filesystems, trees

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and marks take root")


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A source and an empty target."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    yield source, target
    trees.remove(tmp_path)


def no_tick(count: int) -> None:
    pass


def copy(source: Path, target: Path, tick: Callable[[int], None] = no_tick) -> None:
    copy_tree(os.fsencode(source), os.fsencode(target), tick=tick)


def capability() -> bytes:
    """CAP_NET_BIND_SERVICE as struct vfs_cap_data, version 2 (linux/capability.h)."""
    return struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


def access_list() -> bytes:
    """An ACL that gives user 1000 what the group has (linux/posix_acl_xattr.h)."""
    nobody = 0xFFFFFFFF
    entries = [(1, 6, nobody), (2, 4, 1000), (4, 4, nobody), (16, 4, nobody), (32, 0, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def fill(source: Path, target_length: int = 2000) -> None:
    """Make one of everything; a symlink's target must fit a block of the file system."""
    (source / "d/e").mkdir(parents=True)
    (source / "d/e/file").write_text("deep")
    (source / "d/first").write_text("linked")
    for name in ("second", "d/e/third"):
        os.link(source / "d/first", source / name)
    (source / "long").symlink_to("x" * target_length)
    os.link(source / "long", source / "long too", follow_symlinks=False)
    os.mkfifo(source / "pipe", 0o620)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
    os.mkdir(os.fsencode(source) + b"/" + b"\xff\n" * 127)
    (source / "large").write_bytes(os.urandom(200_000))
    (source / "run").write_text("#!/bin/sh")
    (source / "closed").mkdir()
    (source / "closed/file").write_text("x")


def claim(source: Path) -> None:
    """Give owners, modes, attributes and times; a directory's at last."""
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(source / "disk", 0o660 | stat.S_IFBLK, os.makedev(7, 250))
    os.chown(source / "run", 1000, 1001)
    (source / "run").chmod(0o6755)
    os.setxattr(source / "run", "security.capability", capability())
    os.setxattr(source / "run", "user.note", b"\0\xff")
    os.chown(source / "long", 1000, 1001, follow_symlinks=False)
    os.setxattr(source / "large", "system.posix_acl_access", access_list())
    os.setxattr(source / "d", "system.posix_acl_default", access_list())
    os.setxattr(source / "d", "trusted.mine", b"1")
    os.setxattr(source, "user.root", b"1")
    os.chown(source, 1000, 1001)
    source.chmod(0o1750)
    (source / "closed").chmod(0o0)
    for number, path in enumerate(sorted(source.rglob("*"), reverse=True)):
        times = (10**18 + number, 10**18 + 7 * number + 1)
        os.utime(path, ns=times, follow_symlinks=False)
    os.utime(source, ns=(5, 6))


def times(root: Path) -> dict[str, int]:
    """The times of change of content, which no reading of the tree moves."""
    paths = [root, *root.rglob("*")]
    return {str(path.relative_to(root)): path.lstat().st_mtime_ns for path in paths}


def make_whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


@ROOT_ONLY
def test_a_copy_looks_as_its_source_in_everything(ends: tuple[Path, Path]) -> None:
    source, target = ends
    fill(source)
    claim(source)
    copy(source, target)
    trees.assert_same(source, target)
    assert times(source) == times(target)
    first = (target / "d/first").stat()
    assert first.st_nlink == 3
    assert os.getxattr(target / "run", "security.capability") == capability()


@pytest.mark.kernel
@pytest.mark.parametrize("kind", filesystems.FILESYSTEMS)
def test_a_copy_is_the_same_on_every_file_system(
    filesystem: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    within = filesystem(kind)
    source, target, other = within / "source", within / "target", tmp_path / "other"
    for path in (source, target, other):
        path.mkdir()
    fill(source, target_length=1000)
    claim(source)
    copy(source, target)
    copy(target, other)
    trees.assert_same(source, target)
    trees.assert_same(source, other)
    assert times(source) == times(target) == times(other)


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_large_files_share_their_blocks_where_the_file_system_can(
    filesystem: Callable[[str], Path], kind: str
) -> None:
    within = filesystem(kind)
    (within / "source").mkdir()
    (within / "target").mkdir()
    (within / "source/large").write_bytes(os.urandom(20 << 20))
    os.sync()
    before = os.statvfs(within).f_bfree
    copy(within / "source", within / "target")
    os.sync()
    status = os.statvfs(within)
    assert (before - status.f_bfree) * status.f_frsize < 5 << 20
    trees.assert_same(within / "source", within / "target")


def test_holes_stay_holes(ends: tuple[Path, Path]) -> None:
    source, target = ends
    size = 1 << 36
    with (source / "sparse").open("wb") as file:
        file.write(b"start")
        file.seek(1 << 30)
        file.write(b"middle")
        file.truncate(size)
    copy(source, target)
    status = (target / "sparse").stat()
    assert status.st_size == size
    assert status.st_blocks == (source / "sparse").stat().st_blocks
    with (target / "sparse").open("rb") as file:
        assert file.read(5) == b"start"
        file.seek(1 << 30)
        assert file.read(7) == b"middle\0"


def test_a_file_is_copied_by_hand_where_the_kernel_will_not(
    ends: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = ends
    (source / "file").write_bytes(os.urandom(3_000_001))

    def refuse(*arguments: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    copy(source, target)
    trees.assert_same(source, target)


def test_trees_beyond_path_max_are_copied_with_few_descriptors_and_their_links(
    ends: tuple[Path, Path],
) -> None:
    source, target = ends
    depth = 1200
    here = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(b"dir", dir_fd=here)
        there = os.open(b"dir", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=there))
        os.close(here)
        here = there
    os.link(b"file", b"link", src_dir_fd=here, dst_dir_fd=here)
    os.close(here)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        copy(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == before
    trees.assert_same(source, target)


def test_tick_is_told_how_many_entries_are_copied_and_may_end_it(ends: tuple[Path, Path]) -> None:
    source, target = ends
    for number in range(1000):
        (source / str(number)).touch()
    told: list[int] = []
    copy(source, target, told.append)
    assert told == sorted(told)
    assert len(told) > 2
    assert told[-1] == 1000

    def cancel(count: int) -> None:
        raise KeyboardInterrupt

    shutil.rmtree(target)
    target.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt):
        copy(source, target, cancel)
    assert 0 < len(os.listdir(target)) < 1000
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_large_file_can_be_ended_too(
    ends: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = ends
    (source / "large").write_bytes(bytes(40 << 20))

    def cancel(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(source, target, cancel)
    assert (target / "large").stat().st_size < 40 << 20


@ROOT_ONLY
def test_a_whiteout_in_the_source_is_refused_by_its_path(ends: tuple[Path, Path]) -> None:
    source, target = ends
    (source / "d").mkdir()
    make_whiteout(source / "d/gone")
    with pytest.raises(Unsupported, match="source/d/gone"):
        copy(source, target)


@ROOT_ONLY
@pytest.mark.parametrize("mark", ["redirect", "metacopy"])
@pytest.mark.parametrize("place", [".", "d", "d/file"])
def test_an_entry_that_leans_on_other_layers_is_refused_by_its_path(
    ends: tuple[Path, Path], mark: str, place: str
) -> None:
    source, target = ends
    (source / "d").mkdir()
    (source / "d/file").touch()
    os.setxattr(source / place, f"trusted.overlay.{mark}", b"")
    with pytest.raises(Unsupported, match=f"source/{place} .*{mark}"):
        copy(source, target)


@ROOT_ONLY
def test_of_the_overlays_own_attributes_those_that_hide_are_kept(ends: tuple[Path, Path]) -> None:
    source, target = ends
    (source / "d").mkdir()
    for name in ("opaque", "origin", "impure", "uuid", "overlay.origin"):
        os.setxattr(source / "d", f"trusted.overlay.{name}", b"y")
    copy(source, target)
    kept = ["trusted.overlay.opaque", "trusted.overlay.overlay.origin"]
    assert sorted(os.listxattr(target / "d")) == kept


@pytest.mark.kernel
@pytest.mark.parametrize("bind", [False, True], ids=["another file system", "the same one"])
def test_a_mount_in_the_source_is_copied_as_an_empty_directory(
    ends: tuple[Path, Path], bind: bool
) -> None:
    source, target = ends
    for name in ("point", "full"):
        (source / name).mkdir()
    (source / "full/file").touch()
    where = ["--bind", str(source / "full")] if bind else ["-t", "tmpfs", "none"]
    subprocess.run(["mount", *where, str(source / "point")], check=True)
    try:
        (source / "point/inside").touch()
        copy(source, target)
    finally:
        subprocess.run(["umount", source / "point"], check=True)
    assert os.listdir(target / "point") == []
    assert "file" in os.listdir(target / "full")


@pytest.mark.kernel
def test_a_full_disk_is_an_error_that_names_the_file(
    ends: tuple[Path, Path], tmp_path: Path
) -> None:
    source, target = ends
    (source / "d").mkdir()
    (source / "d/large").write_bytes(os.urandom(2 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(target)], check=True)
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            copy(source, target)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == os.fsencode(source / "d/large")
    finally:
        subprocess.run(["umount", target], check=True)


def test_a_source_that_is_not_there_is_an_error(ends: tuple[Path, Path]) -> None:
    source, target = ends
    with pytest.raises(FileNotFoundError, match="missing"):
        copy(source / "missing", target)


@pytest.mark.parametrize("vanishing", ["file", "dir", "link"])
def test_what_vanishes_after_it_was_listed_is_left_out(
    ends: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, vanishing: str
) -> None:
    source, target = ends
    (source / "file").touch()
    (source / "dir").mkdir()
    (source / "link").symlink_to("file")
    list_directory = os.listdir

    def list_and_vanish(where: int) -> list[str]:
        names = list_directory(where)
        if vanishing == "dir":
            shutil.rmtree(source / "dir", ignore_errors=True)
        else:
            (source / vanishing).unlink(missing_ok=True)
        return names

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", list_and_vanish)
        copy(source, target)
    assert set(os.listdir(target)) == {"file", "dir", "link"} - {vanishing}


@pytest.mark.parametrize("instead", ["symlink", "fifo", "directory", "another file"])
def test_what_is_replaced_before_it_is_read_is_copied_as_what_it_became(
    ends: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, instead: str
) -> None:
    source, target = ends
    (source / "file").write_text("before")
    open_file = os.open
    done: list[str] = []

    def replace_and_open(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int = -1) -> int:
        if path == b"file" and not done:
            done.append(instead)
            (source / "file").unlink()
            if instead == "symlink":
                (source / "file").symlink_to("elsewhere")
            elif instead == "fifo":
                os.mkfifo(source / "file")
            elif instead == "directory":
                (source / "file/below").mkdir(parents=True)
            else:
                shutil.copy("/proc/self/status", source / "file")
        return open_file(path, flags, mode, dir_fd=None if dir_fd < 0 else dir_fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", replace_and_open)
        copy(source, target)
    trees.assert_same(source, target)


@pytest.mark.parametrize("act", ["shrink", "grow"])
def test_a_file_that_changes_its_length_meanwhile_is_copied_no_longer_than_it_is(
    ends: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    source, target = ends
    (source / "file").write_bytes(b"x" * 1000)
    copy_range = os.copy_file_range

    def change_and_copy(*arguments: int) -> int:
        os.truncate(source / "file", 300 if act == "shrink" else 5000)
        return copy_range(*arguments)

    monkeypatch.setattr(os, "copy_file_range", change_and_copy)
    copy(source, target)
    assert (target / "file").read_bytes() == b"x" * (300 if act == "shrink" else 1000)
