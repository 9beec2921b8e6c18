"""Whoever it meets: odd names, odd files, odd places, every file system that serves."""

from __future__ import annotations

import base64
import os
import socket
from typing import TYPE_CHECKING

import pytest

from envstack.errors import EnvstackError
from tests.environment.harness import Engine, mounts_at, refused
from tests.support import trees
from tests.support.edits import mkdir, write
from tests.support.filesystems import FILESYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.edits import Edit
    from tests.support.ground import Ground

    Make = Callable[..., Engine]
    Run = Callable[..., None]

pytestmark = pytest.mark.kernel

NAMES = [
    b"new\nline",
    b"quo'te\"d",
    b"co:lon",
    b"com,ma",
    b"back\\slash",
    b"\\072",
    b"\xff\xfe",
    "gr\u00fcn \U0001f40d".encode(),
    b" ",
    b"-rf",
    b"...",
    b"\x01\x7f",
    b"n" * 255,
    b"\xc3" * 255,
]


def odd_names(root: Path) -> None:
    """Make a file, a directory with a file, and a symbolic link under every odd name."""
    base = os.fsencode(root)
    for kind in (b"files", b"dirs", b"links"):
        os.mkdir(base + b"/" + kind)
    for name in NAMES:
        _put(base + b"/files/" + name, name)
        os.mkdir(base + b"/dirs/" + name)
        _put(base + b"/dirs/" + name + b"/" + name, name)
        os.symlink(name, base + b"/links/" + name)


def odd_files(root: Path) -> None:
    """Make one of every kind of file, and of what one can be besides its bytes."""
    for name in ("setuid", "owned", "marked", "one"):
        (root / name).write_text(name)
    os.chmod(root / "setuid", 0o4755)
    os.chown(root / "owned", 1234, 4321)
    os.setxattr(root / "marked", "user.a", b"\x00\xff")
    os.setxattr(root / "marked", "trusted.b", b"b" * 100)
    os.setxattr(root / "marked", "security.c", b"")
    (root / "shared").mkdir(0o777)
    os.chmod(root / "shared", 0o3777)
    os.setxattr(root / "shared", "user.d", b"d")
    os.link(root / "one", root / "two")
    os.link(root / "one", root / "shared" / "three")
    with (root / "sparse").open("wb") as file:
        file.seek(1 << 23)
        file.write(b"in the middle")
        file.truncate(1 << 24)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", 0o020666, os.makedev(1, 3))
    here = os.open(root, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    os.symlink("t" * 1000, root / "long")
    os.symlink(b"\xff\n:,\\", root / "odd")
    os.chown(root / "odd", 5, 6, follow_symlinks=False)


def long_links(root: Path) -> None:
    """Make symbolic links up to the longest; XFS takes 1,024 bytes and others PATH_MAX."""
    for length in (1, 255, 256, 2000, 4000):
        os.symlink("t" * length, root / str(length))


def deep(root: Path) -> None:
    """Make a tree twice as deep as PATH_MAX is long, a file at its end."""
    here = os.open(root, os.O_PATH)
    for _ in range(42):
        os.mkdir("d" * 200, dir_fd=here)
        there = os.open("d" * 200, os.O_PATH, dir_fd=here)
        os.close(here)
        here = there
    os.close(os.open("end", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=here))
    os.close(here)


def narrow(root: Path) -> None:
    """Make a tree deeper than Python's recursion goes."""
    here = os.open(root, os.O_PATH)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        there = os.open("d", os.O_PATH, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)


def _put(path: bytes, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


CONTENTS: dict[str, Edit] = {
    "odd names": odd_names,
    "odd files": odd_files,
    "long links": long_links,
    "a deep tree": deep,
    "a narrow tree": narrow,
}


def goes_there_and_back(engine: Engine, make: Edit) -> None:
    """Make, seal, destroy, come back; remove, save, come back: always the very tree."""
    base = trees.snapshot(engine.merged)
    make(engine.merged)
    full = trees.snapshot(engine.merged)
    told(engine, trees.changes(base, full))
    made = engine.checkpoint()["id"]
    assert trees.snapshot(engine.merged) == full
    assert engine.diff() == []
    for name in os.listdir(os.fsencode(engine.merged)):
        trees.remove(engine.merged / os.fsdecode(name))
    told(engine, trees.changes(full, trees.snapshot(engine.merged)))
    saved = engine.rollback()["saved"]
    assert trees.snapshot(engine.merged) == full
    engine.rollback("base")
    assert trees.snapshot(engine.merged) == base
    engine.rollback(saved)
    assert os.listdir(engine.merged) == []
    engine.down()
    engine.up()
    engine.rollback(made)
    assert trees.snapshot(engine.merged) == full
    engine.settle()
    assert sum(engine.row(made)["changes"].values()) == len(trees.changes(base, full))


def told(engine: Engine, expected: set[tuple[bytes, str, str]]) -> None:
    """Check what `diff` says against what was seen to change."""
    rows = engine.diff()
    found = [
        (
            base64.b64decode(row["path_b64"]) if "path_b64" in row else row["path"].encode(),
            row["change"],
            row["kind"],
        )
        for row in rows
    ]
    assert set(found) == expected
    assert found == sorted(set(found))


@pytest.mark.parametrize("what", CONTENTS)
def test_what_is_made_in_the_merged_tree_comes_back_as_it_was(engine: Engine, what: str) -> None:
    goes_there_and_back(engine, CONTENTS[what])


@pytest.mark.parametrize("what", CONTENTS)
@pytest.mark.parametrize("copied", [False, True], ids=["by reference", "copied"])
def test_what_a_layer_holds_is_there_and_can_be_changed(
    make_engine: Make, what: str, copied: bool
) -> None:
    engine = make_engine(base=[CONTENTS[what]])
    engine.declare({"layers": [{"name": "base", "dir": "base", "copy": copied}]})
    before = trees.snapshot(engine.project / "base")
    engine.up()
    assert trees.differences(trees.snapshot(engine.merged), before) == []
    engine.write("file")
    for name in os.listdir(os.fsencode(engine.merged)):
        trees.remove(engine.merged / os.fsdecode(name))
    engine.checkpoint()
    engine.rollback("base")
    assert trees.differences(trees.snapshot(engine.merged), before) == []
    assert trees.snapshot(engine.project / "base") == before


def test_attributes_of_what_a_layer_holds_can_be_changed_alone(make_engine: Make) -> None:
    engine = make_engine(base=[odd_files])
    engine.up()
    base = trees.snapshot(engine.merged)
    os.chmod(engine.merged / "fifo", 0o600)
    os.chmod(engine.merged / "socket", 0o600)
    os.chown(engine.merged / "long", 7, 7, follow_symlinks=False)
    os.removexattr(engine.merged / "marked", "trusted.b")
    os.chown(engine.merged / "setuid", 9, 9)
    told(engine, trees.changes(base, trees.snapshot(engine.merged)))
    changed = trees.snapshot(engine.merged)
    made = engine.checkpoint()["id"]
    assert trees.snapshot(engine.merged) == changed
    engine.rollback("base")
    assert trees.snapshot(engine.merged) == base
    engine.rollback(made)
    assert trees.snapshot(engine.merged) == changed


def test_a_sparse_file_stays_sparse(make_engine: Make) -> None:
    engine = make_engine(base=[odd_files])
    engine.declare({"layers": [{"name": "base", "dir": "base", "copy": True}]})
    engine.up()
    engine.checkpoint()
    info = (engine.merged / "sparse").stat()
    assert info.st_size == 1 << 24
    assert info.st_blocks * 512 < 1 << 20


PLACES = [
    b"co:lon",
    b"com,ma",
    b"back\\slash\\072",
    b"spa ce \t",
    b"new\nline",
    b"\xff\xfe not utf8",
    b"quo'te\"d $HOME `id`",
    b"l" * 250,
    b"l" * 200 + b"/" + b"m" * 200,
    b"l" * 200 + b"/" + b"m" * 150 + b":,\\\n",
]


@pytest.fixture
def place(ground: Ground) -> Iterator[Path]:
    """A directory of the test's own."""
    path = ground.fresh("w")
    path.mkdir()
    yield path
    trees.remove(path)


def life(engine: Engine) -> None:
    """Go once through everything."""
    assert engine.up()["state"] == "up"
    base = trees.snapshot(engine.merged)
    engine.write("file")
    engine.write("known", "changed")
    made = engine.checkpoint()["id"]
    (engine.merged / "known").unlink()
    assert [row["change"] for row in engine.diff()] == ["deleted"]
    assert engine.rollback("base")["saved"]
    assert trees.snapshot(engine.merged) == base
    engine.rollback(made)
    assert (engine.merged / "known").read_text() == "changed"
    engine.stop()
    assert mounts_at(engine.merged)
    assert engine.up()["head"]["id"] == made
    engine.down()
    engine.up()
    assert (engine.merged / "known").read_text() == "changed"
    engine.until_sealed(made)


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("what", ["project", "store"])
def test_a_path_may_hold_anything(make_engine: Make, place: Path, what: str, name: bytes) -> None:
    odd = place / os.fsdecode(name)
    odd.mkdir(parents=True)
    odd.chmod(0o755)
    engine = make_engine(**{what: odd}, base=[write("known", "known\n")])
    life(engine)
    engine.close()


@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_a_store_may_lie_on(
    make_engine: Make, filesystem: Callable[[str], Path], propagation: str, kind: str
) -> None:
    engine = make_engine(
        store=filesystem(kind) / "home", base=[write("known", "known\n"), mkdir("dir")]
    )
    life(engine)
    engine.rollback("base", discard=True)
    goes_there_and_back(engine, odd_files if propagation == "private" else odd_names)


@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_a_layer_may_lie_on_another_file_system_than_the_store(
    make_engine: Make, filesystem: Callable[[str], Path], kind: str
) -> None:
    project = filesystem(kind) / "project"
    project.mkdir()
    project.chmod(0o755)
    engine = make_engine(project=project, base=[write("known", "known\n"), odd_names])
    engine.declare(
        {
            "layers": [
                {"name": "base", "dir": "base"},
                {"name": "copied", "dir": "base", "at": "copied"},
            ]
        }
    )
    life(engine)
    before = trees.snapshot(engine.project / "base")
    assert trees.differences(trees.snapshot(engine.merged / "copied"), before) == []
    engine.close()


class TestStoresThatCannotServe:
    """A file system that cannot hold an upper is refused with the reason."""

    def refuses(self, engine: Engine) -> None:
        before = trees.snapshot(engine.project)
        try:
            with refused(5, "unsupported") as refusal:
                engine.up()
            assert "ENVSTACK_HOME" in refusal.hint
            assert mounts_at(engine.merged) == []
            assert engine.environments() == []
            assert os.listdir(engine.home / "layers") == []
            assert trees.snapshot(engine.project) == before
        finally:
            engine.close()

    def test_an_overlay(self, make_engine: Make, place: Path, run: Run) -> None:
        for name in ("lower", "upper", "work", "merged"):
            (place / name).mkdir()
        layers = "lowerdir=lower,upperdir=upper,workdir=work"
        run("env", "-C", place, "mount", "-t", "overlay", "-o", layers, "none", "merged")
        try:
            engine = make_engine(store=place / "merged" / "home", base=[write("known")])
            self.refuses(engine)
        finally:
            run("umount", place / "merged")

    def test_one_without_extended_attributes(
        self, make_engine: Make, place: Path, run: Run
    ) -> None:
        """A directory of it cannot be marked opaque: what was deleted would come back."""
        run("mount", "-t", "ramfs", "none", place)
        try:
            engine = make_engine(store=place / "home", base=[write("known")])
            self.refuses(engine)
        finally:
            run("umount", place)

    def test_a_read_only_one(self, make_engine: Make, place: Path, run: Run) -> None:
        run("mount", "-t", "tmpfs", "none", place)
        try:
            engine = make_engine(store=place / "home", base=[write("known")])
            engine.up()
            engine.write("file")
            engine.down()
            engine.stop()
            run("mount", "-o", "remount,ro", place)
            with pytest.raises(EnvstackError) as caught:
                engine.up()
            assert caught.value.kind != "damaged"
            run("mount", "-o", "remount,rw", place)
            engine.up()
            assert (engine.merged / "file").exists()
            engine.close()
        finally:
            run("umount", place)
