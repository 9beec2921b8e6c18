"""A rollback in place goes through the mount that stands: whoever is inside stays there."""

from __future__ import annotations

import os
import random
import stat
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from envstack.environment.steps import Step
from tests.environment.harness import mounts_at, nothing_changes, refused
from tests.support import trees
from tests.support.edits import apply, chmod, chown, link, mkdir, remove, write
from tests.support.profiles import IS_LONG
from tests.support.scribbles import write_at_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.environment.harness import Bystander, Engine
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


def test_where_somebody_is_inside_it_is_done_in_place_and_says_why(
    engine: Engine, bystander: Callable[[], Bystander]
) -> None:
    engine.write("file")
    holder = bystander()
    holder.do("os.chdir(T)")
    before = mounts_at(engine.merged)
    dry = engine.rollback("base", dry_run=True)
    answer = engine.rollback("base")
    assert (answer["mode"], answer["reason"]) == (dry["mode"], dry["reason"])
    assert answer["mode"] == "in-place"
    assert f"(pid {holder.pid}) has cwd" in answer["reason"]
    assert answer["changes"] == {"added": 0, "modified": 0, "deleted": 1}
    assert mounts_at(engine.merged) == before
    assert set(answer) == {
        *("to", "saved", "saved_meanwhile", "mode", "reason", "changes", "duration_ms"),
        *("stranded", "orphaned", "late", "drift"),
    }
    assert (engine.row(answer["saved"])["mode"], answer["stranded"]) == ("live", [])
    assert holder.do("answer = sorted(os.listdir('.'))") == ["dir", "known"]
    holder.do("os.chdir('/')")
    answer = engine.rollback(answer["saved"])
    assert (answer["mode"], answer["reason"]) == ("swap", "nobody is inside")
    assert answer["changes"] is None
    assert mounts_at(engine.merged) != before


def test_who_is_inside_keeps_directory_watch_and_mapping(
    engine: Engine, bystander: Callable[[], Bystander]
) -> None:
    apply(engine.merged, mkdir("a"), mkdir("a/b"), mkdir("a/b/c"), write("a/b/c/f", "x" * 5000))
    first = engine.checkpoint()["id"]
    apply(engine.merged, write("a/b/c/f", "y" * 9000), mkdir("only"), mkdir("only/here"))
    deep, gone = bystander(), bystander()
    deep.do("os.chdir(T + '/a/b/c')")
    deep.do("file = open('f', 'rb'); seen = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)")
    deep.do(
        "watch = os.fdopen(int(ctypes.CDLL(None).inotify_init1(0o4000)), 'rb', 0);"
        "ctypes.CDLL(None).inotify_add_watch(watch.fileno(), b'.', 0x3c0 | 0x2)"
    )
    gone.do("os.chdir(T + '/only/here')")
    inodes = {path: (engine.merged / path).stat().st_ino for path in ("a", "a/b", "a/b/c")}
    in_place(engine, first)
    assert {path: (engine.merged / path).stat().st_ino for path in inodes} == inodes
    assert deep.do("answer = os.getcwd()[-6:], os.listdir('.')") == ["/a/b/c", ["f"]]
    assert deep.do("answer = open('f').read()") == "x" * 5000
    assert deep.do("answer = seen[:].decode()") == "y" * 9000, "what is mapped is what it was"
    assert deep.do("answer = b'f\\0' in watch.read(4096)")
    assert gone.do("os.getcwd()") == "ENOENT", "the target has no such directory"
    deep.do("open('new', 'w').write('still here')")
    assert (engine.merged / "a" / "b" / "c" / "new").read_text() == "still here"


@pytest.mark.parametrize(
    ("hold", "how"),
    [
        ("file = open(T + '/file', 'r+')", "writing"),
        (
            "file = open(T + '/file', 'r+'); seen = mmap.mmap(file.fileno(), 0)",
            "mapping-writable",
        ),
    ],
)
def test_who_goes_on_writing_to_what_is_gone_is_named(
    engine: Engine, bystander: Callable[[], Bystander], hold: str, how: str
) -> None:
    engine.write("file", "first")
    first = engine.checkpoint()["id"]
    engine.write("file", "second")
    engine.write("other", "second")
    writer, bound = bystander(), bystander()
    writer.do(hold)
    bound.do("file = open(T + '/known', 'r+')")
    answer = in_place(engine, first)
    (row,) = answer["orphaned"]
    assert row["pid"] == writer.pid
    assert how in {hold["what"] for hold in row["holds"]}
    assert row["holds"][0]["path"].startswith(f"{engine.merged}/file")
    assert (engine.merged / "file").read_text() == "first"


def test_what_is_written_after_the_seal_is_sealed_too(engine: Engine) -> None:
    engine.write("file", "first")
    engine.write("log", "first")
    first = engine.checkpoint()["id"]
    engine.write("file", "second")
    engine.write("log", "second")
    engine.at[Step.REGISTER] = lambda: _once(engine, Step.REGISTER, lambda: _append(engine))
    answer = in_place(engine, first)
    assert (engine.merged / "log").read_text() == "first"
    assert answer["late"] == []
    assert sorted(os.listdir(engine.merged)) == ["dir", "file", "known", "log"]
    late = engine.layer_of(answer["saved_meanwhile"])
    assert (late / "log").read_text() == "second and third"
    assert (late / "new").read_text() == "new"
    in_place(engine, answer["saved"])
    assert (engine.merged / "log").read_text() == "second"


def _once(engine: Engine, step: Step, act: Callable[[], object]) -> None:
    del engine.at[step]
    act()


def _append(engine: Engine) -> None:
    with open(engine.merged / "log", "a") as file:
        file.write(" and third")
    engine.write("new", "new")


def test_what_is_written_all_the_time_is_left_and_named(engine: Engine) -> None:
    engine.write("log", "first")
    engine.write("file", "first")
    first = engine.checkpoint()["id"]
    engine.write("log", "second")
    engine.write("file", "second")
    engine.at[Step.REGISTER] = lambda: _append(engine)
    answer = engine.rollback(first, mode="in-place")
    engine.at.clear()
    assert [row["path"] for row in answer["late"]] == ["log"]
    assert (engine.merged / "file").read_text() == "first"
    assert (engine.merged / "log").read_text() == "second" + 3 * " and third"
    assert [row["path"] for row in engine.diff()] == ["log", "new"]


def test_a_mount_on_what_must_change_refuses_before_anything_is_done(
    engine: Engine, run: Callable[..., None]
) -> None:
    apply(engine.merged, mkdir("new"), write("dir/inner", "changed"))
    run("mount", "-t", "tmpfs", "none", str(engine.merged / "new"))
    try:
        with nothing_changes(engine), refused(4, "state") as refusal:
            engine.rollback("base", mode="in-place")
        assert refusal.hint == f"umount {engine.merged}/new"
        engine.checkpoint(mode="live")
        in_place(engine)
    finally:
        run("umount", str(engine.merged / "new"))


def test_where_it_stops_halfway_nothing_is_lost(engine: Engine, run: Callable[..., None]) -> None:
    apply(engine.merged, write("a", "1"), write("b", "1"), write("c", "1"))
    first = engine.checkpoint()["id"]
    apply(engine.merged, write("a", "2"), write("b", "2"), write("c", "2"))
    run("chattr", "+i", str(engine.upper / "b"))
    with refused(1) as refusal:
        engine.rollback(first, mode="in-place")
    assert "stopped halfway: Operation not permitted: b" in refusal.message
    saved = engine.status()["head"]["id"]
    assert f"`envstack rollback {saved}` takes back" in refusal.hint
    assert [(row["path"], row["change"]) for row in engine.diff()] == [("a", "modified")]
    run("chattr", "-i", str(engine.upper / "b"))
    in_place(engine, saved)
    assert (engine.merged / "a").read_text() == "2"
    in_place(engine, first)
    assert [(engine.merged / name).read_text() for name in "abc"] == ["1", "1", "1"]


def test_a_full_disk_stops_it_and_it_is_done_when_there_is_space(
    make_engine: Callable[..., Engine], filesystem: Callable[[str], Path]
) -> None:
    disk = filesystem("tmpfs")
    engine = make_engine(store=disk / "home", base=[write("known", "known\n")])
    engine.up()
    apply(engine.merged, write("big", "1" * (8 << 20)), write("small", "1"))
    first = engine.checkpoint()["id"]
    apply(engine.merged, remove("big"), write("small", "2"))
    engine.checkpoint()
    room = os.statvfs(disk)
    with open(disk / "filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, room.f_bavail * room.f_frsize - (4 << 20))
    with refused(1) as refusal:
        engine.rollback(first, mode="in-place", discard=True)
    assert "No space left on device: big" in refusal.message
    assert refusal.hint.startswith("free some space")
    assert sorted(os.listdir(engine.merged)) == ["known", "small"]
    (disk / "filler").unlink()
    in_place(engine, first)
    assert (engine.merged / "big").read_text() == "1" * (8 << 20)
    assert (engine.merged / "small").read_text() == "1"


@pytest.mark.parametrize("seed", range(200 if IS_LONG else 3))
def test_any_point_of_history_is_reached_from_any_other(engine: Engine, seed: int) -> None:
    draw = random.Random(seed)
    known: dict[str, tuple[trees.Tree, dict[str, int] | None]]
    known = {"base": (trees.snapshot(engine.merged), times(engine.merged))}
    for _ in range(8):
        write_at_random(engine.merged, draw, draw.randrange(8))
        if draw.randrange(3):
            made = engine.checkpoint(mode=draw.choice(["live", "live", "rotate"]))
            # A live one holds no file of which nothing but the time or the links changed.
            modified = times(engine.merged) if made["mode"] == "rotate" else None
            known[made["id"]] = trees.snapshot(engine.merged), modified
            write_at_random(engine.merged, draw, draw.randrange(4))
        rev = draw.choice(list(known))
        before = trees.snapshot(engine.merged)
        answer = in_place(engine, rev, discard=draw.random() < 0.5)
        tree, then = known[rev]
        assert not trees.changes(trees.snapshot(engine.merged), tree)
        if then is not None:
            assert not trees.differences(trees.snapshot(engine.merged), tree)
            assert files_of(tree, times(engine.merged)) == files_of(tree, then)
        if answer["saved"]:
            in_place(engine, answer["saved"])
            assert not trees.changes(trees.snapshot(engine.merged), before)


def files_of(tree: trees.Tree, modified: dict[str, int]) -> dict[str, int]:
    """Return the times of what is no directory."""
    return {
        os.fsdecode(path): modified[os.fsdecode(path)]
        for path, entry in tree.items()
        if entry.kind != "dir"
    }


def test_who_comes_in_to_write_before_the_exchange_is_met_in_place(
    engine: Engine, bystander: Callable[[], Bystander]
) -> None:
    engine.write("file", "not sealed")
    holder = bystander()
    engine.at[Step.BUILD] = lambda: holder.do("file = open(T + '/known', 'r+')")
    answer = engine.rollback("base")
    engine.at.clear()
    assert (answer["mode"], answer["saved"] is None) == ("in-place", False)
    assert "goes on writing" in answer["reason"]
    assert engine.diff() == []
    assert answer["orphaned"] == [], "what it has open is what it was"


def test_those_who_can_be_made_to_stand_still_do_not_see_it_half_done(engine: Engine) -> None:
    apply(engine.merged, write("a"), write("b"))
    seen: list[str] = []

    @contextmanager
    def freeze(_env: object) -> Iterator[bool]:
        seen.append("frozen")
        yield True
        seen.append("thawed")

    engine.service.access.ctx = replace(engine.context, freeze=freeze)
    engine.at[Step.APPLY] = lambda: seen.append("apply")
    in_place(engine, "base", discard=True)
    engine.at.clear()
    assert (seen[0], seen[-1], set(seen[1:-1])) == ("frozen", "thawed", {"apply"})
