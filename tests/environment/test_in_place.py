"""A rollback in place goes through the mount that stands: whoever is inside stays there."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests.environment.harness import mounts_at
from tests.support import trees
from tests.support.edits import apply, chmod, chown, link, mkdir, remove, write

if TYPE_CHECKING:
    from pathlib import Path

    from tests.environment.harness import Engine
    from tests.support.edits import Edit

pytestmark = pytest.mark.kernel


@pytest.fixture(params=["newer"])
def way(request: pytest.FixtureRequest) -> str:
    """One way of mounting: nothing is mounted by a rollback in place."""
    name: str = request.param
    return name


def in_place(engine: Engine, rev: str = "@", **options: Any) -> Any:
    """Roll back in place; see that the mount and the upper stayed, and that nothing differs."""
    before = mounts_at(engine.merged)
    answer = engine.rollback(rev, mode="in-place", **options)
    assert answer["mode"] == "in-place"
    assert mounts_at(engine.merged) == before
    assert engine.diff() == []
    head = engine.status()["head"]
    assert answer["to"] == (head["id"] if head else "base")
    return answer


KINDS: dict[str, tuple[list[Edit], list[Edit]]] = {
    "a file is written": ([write("f", "one")], [write("f", "two!")]),
    "a file is written, as long": ([write("f", "one")], [write("f", "two")]),
    "a file is made": ([], [write("f", "new")]),
    "a file is deleted": ([write("f", "one")], [remove("f")]),
    "a file of a layer is deleted": ([], [remove("known")]),
    "a file of a layer is written": ([], [write("known", "otherwise")]),
    "a mode": ([write("f", "one")], [chmod("f", 0o4711)]),
    "an owner": ([write("f", "one", 0o4755)], [chown("f", 1, 2)]),
    "an attribute": (
        [write("f"), lambda root: os.setxattr(root / "f", "user.a", b"1")],
        [
            lambda root: os.setxattr(root / "f", "user.a", b"2"),
            lambda root: os.setxattr(root / "f", "user.b", b"2"),
        ],
    ),
    "a directory is made": ([], [mkdir("d"), mkdir("d/e"), write("d/e/f")]),
    "a directory of a layer is deleted": ([], [remove("dir")]),
    "a directory is made anew": ([], [remove("dir"), mkdir("dir"), write("dir/new")]),
    "a directory becomes a file": ([], [remove("dir"), write("dir", "file")]),
    "a file becomes a directory": ([], [remove("known"), mkdir("known"), write("known/x")]),
    "a symbolic link": (
        [lambda root: os.symlink("known", root / "l")],
        [remove("l"), lambda root: os.symlink("nowhere", root / "l")],
    ),
    "a file becomes a symbolic link": (
        [],
        [remove("known"), lambda root: os.symlink("/etc/passwd", root / "known")],
    ),
    "a symbolic link is of somebody else": (
        [lambda root: os.symlink("known", root / "l")],
        [chown("l", 3, 4)],
    ),
    "special files": (
        [lambda root: os.mkfifo(root / "p", 0o640)],
        [remove("p"), lambda root: os.mknod(root / "p", stat.S_IFSOCK | 0o600)],
    ),
    "a device": (
        [lambda root: os.mknod(root / "n", stat.S_IFCHR | 0o666, os.makedev(1, 3))],
        [remove("n"), lambda root: os.mknod(root / "n", stat.S_IFCHR | 0o666, os.makedev(1, 5))],
    ),
    "links": (
        [write("a", "one"), link("a", "b"), link("a", "dir/c")],
        [write("b", "two"), remove("a"), write("a", "three")],
    ),
    "links that were none": (
        [write("a", "one"), write("b", "one")],
        [remove("b"), link("a", "b")],
    ),
    "one link is replaced": (
        [write("a", "one"), link("a", "b")],
        [remove("b"), write("b", "one")],
    ),
    "the root": ([chmod(".", 0o711)], [chmod(".", 0o1777), chown(".", 5, 6)]),
    "names that are not UTF-8": (
        [lambda root: os.mkdir(os.fsencode(root) + b"/\xff\xfe")],
        [
            lambda root: os.rmdir(os.fsencode(root) + b"/\xff\xfe"),
            lambda root: os.mkdir(os.fsencode(root) + b"/a\n\xfe"),
        ],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_as_it_was(engine: Engine, kind: str) -> None:
    before, after = KINDS[kind]
    apply(engine.merged, *before)
    first = engine.checkpoint("first", mode="rotate")["id"]
    was, then = trees.snapshot(engine.merged), times(engine.merged)
    apply(engine.merged, *after)
    changed = trees.snapshot(engine.merged)
    assert changed != was
    answer = in_place(engine)
    assert answer["to"] == first
    assert not trees.differences(trees.snapshot(engine.merged), was)
    assert times(engine.merged) == then
    if trees.changes(was, changed):  # links alone are no change, and are not saved
        in_place(engine, answer["saved"])
        assert not trees.differences(trees.snapshot(engine.merged), changed)
    in_place(engine, first, discard=True)
    assert not trees.differences(trees.snapshot(engine.merged), was)
    assert times(engine.merged) == then


def times(root: Path) -> dict[str, int]:
    """Return when each entry of a tree was modified."""
    found = {".": root.stat().st_mtime_ns}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = os.lstat(path).st_mtime_ns
    return found
