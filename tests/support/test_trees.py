"""The judge sees every difference that a user could, and none that a user could not."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import trees
from tests.support.edits import apply, chmod, chown, link, mkdir, remove, rename, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.edits import Edit

DEPTH = 2 * sys.getrecursionlimit()


def bind(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))


TREE: list[Edit] = [
    *(write("file", "text"), write("same", "text"), link("same", "linked")),
    *(mkdir("dir"), write("dir/inner"), mkdir("empty")),
    lambda root: os.symlink("file", root / "symlink"),
    lambda root: os.mkfifo(root / "fifo"),
    lambda root: os.setxattr(root / "file", "user.key", b"value"),
    bind,
]


@pytest.fixture
def tree(directory: Callable[[], Path]) -> Path:
    root = directory()
    apply(root, *TREE)
    return root


def retarget(root: Path) -> None:
    (root / "symlink").unlink()
    (root / "symlink").symlink_to("same")


def unlink_one_name(root: Path) -> None:
    (root / "linked").unlink()
    (root / "linked").write_text("text")


def sparse(root: Path) -> None:
    os.truncate(root / "file", 100)


def set_xattr(root: Path) -> None:
    os.setxattr(root / "file", "user.key", b"other")


def set_xattr_of_directory(root: Path) -> None:
    os.setxattr(root / "dir", "user.key", b"")


def fifo_for_socket(root: Path) -> None:
    (root / "socket").unlink()
    os.mkfifo(root / "socket")


@pytest.mark.parametrize(
    ("edit", "paths"),
    [
        (write("file", "test"), {b"file"}),
        (chmod("file", 0o600), {b"file"}),
        (chmod("dir", 0o4755), {b"dir"}),
        (chmod(".", 0o700), {b"."}),
        (remove("dir"), {b"dir", b"dir/inner"}),
        (rename("empty", "full"), {b"empty", b"full"}),
        (write("new"), {b"new"}),
        (link("file", "new"), {b"file", b"new"}),
        (retarget, {b"symlink"}),
        (unlink_one_name, {b"linked", b"same"}),
        (sparse, {b"file"}),
        (set_xattr, {b"file"}),
        (set_xattr_of_directory, {b"dir"}),
        (fifo_for_socket, {b"socket"}),
    ],
)
def test_each_edit_is_seen_at_its_paths(tree: Path, edit: Edit, paths: set[bytes]) -> None:
    before = trees.snapshot(tree)
    edit(tree)
    after = trees.snapshot(tree)
    found = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert found == paths
    assert len(trees.differences(before, after)) == len(paths)


@pytest.mark.kernel
def test_owners_and_devices_are_seen(tree: Path) -> None:
    before = trees.snapshot(tree)
    apply(tree, chown("file", 1, 2), lambda root: os.mknod(root / "null", 0o20666, 0x103))
    after = trees.snapshot(tree)
    assert (after[b"file"].uid, after[b"file"].gid) == (1, 2)
    assert (after[b"null"].kind, after[b"null"].rdev) == ("char", 0x103)
    assert len(trees.differences(before, after)) == 2


def test_times_and_what_was_written_back_are_no_difference(tree: Path) -> None:
    before = trees.snapshot(tree)
    os.utime(tree / "file", (1, 1))
    apply(tree, write("dir/inner", "other"), write("dir/inner"), mkdir("t"), remove("t"))
    assert trees.snapshot(tree) == before


def test_a_duplicate_has_no_difference(tree: Path) -> None:
    copy = tree.with_name(tree.name + "-copy")
    trees.duplicate(tree, copy)
    trees.assert_same(tree, copy)
    trees.remove(copy)
    assert not copy.exists()


def test_changes_speak_as_diff_does(tree: Path) -> None:
    before = trees.snapshot(tree)
    apply(tree, *(remove("dir"), write("dir"), remove("empty"), mkdir("file2"), link("same", "x")))
    apply(tree, fifo_for_socket, retarget)
    assert trees.changes(before, trees.snapshot(tree)) == {
        (b"dir", "modified", "file"),
        (b"dir/inner", "deleted", "file"),
        (b"empty", "deleted", "dir"),
        (b"file2", "added", "dir"),
        (b"socket", "modified", "other"),
        (b"symlink", "modified", "symlink"),
        (b"x", "added", "file"),
    }


def test_depth_has_no_bound(directory: Callable[[], Path]) -> None:
    root = directory()
    here = os.open(root, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("ten-bytes!", dir_fd=here)
        below = os.open("ten-bytes!", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    tree = trees.snapshot(root)
    assert len(tree) == DEPTH + 1
    assert b"/".join([b"ten-bytes!"] * DEPTH) in tree
