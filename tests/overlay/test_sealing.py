"""A layer made of a live upper, on those made before, shows what the mount showed."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import trees
from tests.support.livestage import Stage
from tests.support.profiles import COMMON, IS_LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.ground import Ground
    from tests.support.trees import Tree

    Act = Callable[[Path], object]
    Edits = list[tuple[str, str, str]]

pytestmark = pytest.mark.kernel


def base(layer: Path) -> None:
    """A layer with one of everything."""
    (layer / "d/e/f").mkdir(parents=True)
    (layer / "d/e/f/deep").write_text("deep")
    (layer / "d/e/one").write_text("one")
    (layer / "d/two").write_text("two")
    (layer / "file").write_text("file")
    (layer / "link").symlink_to("file")
    os.mkfifo(layer / "pipe")
    (layer / "empty").mkdir()
    os.setxattr(layer / "file", "user.colour", b"red")
    os.setxattr(layer / "d", "user.colour", b"red")


@pytest.fixture
def stage(directory: Callable[[], Path]) -> Iterator[Stage]:
    stage = Stage(directory(), base)
    with stage.mounted():
        yield stage


def alone(tree: Tree) -> Tree:
    """Forget which names are links of one file: in a chain those are one that changed together."""
    return {path: replace(entry, group=None) for path, entry in tree.items()}


def remake(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
        file.truncate(16 << 20)


def unreadable(path: Path) -> None:
    path.write_text("secret")
    path.chmod(0)


def delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def replace_by(path: Path, act: Act) -> None:
    delete(path)
    act(path)


NULL = os.makedev(1, 3)


def both(*acts: Act) -> Act:
    """Do one after the other."""
    return lambda tree: [act(tree) for act in acts]


def make(name: str, inside: str) -> Act:
    """Make a directory with a file in it."""

    def act(tree: Path) -> None:
        (tree / name).mkdir()
        (tree / name / inside).write_text(inside)

    return act


def move(one: str, other: str) -> Act:
    return lambda tree: os.rename(tree / one, tree / other)


ODD = b"/\xff" + b"\xfe" * 254

STORIES: dict[str, list[Act]] = {
    "a file is added, changed, deleted": [
        lambda t: (t / "new").write_text("1"),
        lambda t: (t / "new").write_text("2"),
        lambda t: (t / "new").unlink(),
    ],
    "a lower file is changed, deleted, made again": [
        lambda t: (t / "d/two").write_text("2"),
        lambda t: (t / "d/two").unlink(),
        lambda t: (t / "d/two").write_text("3"),
    ],
    "a lower directory is deleted, made anew, filled": [
        lambda t: shutil.rmtree(t / "d"),
        lambda t: (t / "d").mkdir(),
        lambda t: (t / "d/e").mkdir(),
        lambda t: (t / "d/e/one").write_text("another"),
        lambda t: shutil.rmtree(t / "d"),
    ],
    "a lower directory is remade twice": [
        lambda t: remake(t / "d/e"),
        lambda t: (t / "d/e/x").write_text("x"),
        lambda t: remake(t / "d/e"),
    ],
    "a directory of the upper alone is remade": [
        make("n", "a"),
        both(lambda t: shutil.rmtree(t / "n"), make("n", "b")),
        lambda t: remake(t / "n"),
    ],
    "directories change places": [
        both(make("p", "p"), make("q", "q")),
        both(move("p", "r"), move("q", "p"), move("r", "q")),
        move("p", "q/inside"),
    ],
    "directories change places in one that no lower layer has": [
        both(make("n", "n"), make("n/p", "p"), make("n/q", "q")),
        both(move("n/p", "n/r"), move("n/q", "n/p"), move("n/r", "n/q")),
        both(lambda t: shutil.rmtree(t / "n/p"), move("n/q", "n/p")),
    ],
    "a file becomes a directory and back": [
        lambda t: replace_by(t / "file", lambda path: (path / "below").mkdir(parents=True)),
        lambda t: (t / "file/below/x").write_text("x"),
        lambda t: replace_by(t / "file", lambda path: path.write_text("a file again")),
        lambda t: replace_by(t / "file", lambda path: path.mkdir()),
    ],
    "a directory becomes a file, a link, a fifo, a socket, a device": [
        lambda t: replace_by(t / "d", lambda path: path.write_text("file")),
        lambda t: replace_by(t / "d", lambda path: path.symlink_to("empty")),
        lambda t: replace_by(t / "d", os.mkfifo),
        lambda t: replace_by(t / "d", listen),
        lambda t: replace_by(t / "d", lambda path: os.mknod(path, stat.S_IFCHR | 0o640, NULL)),
        lambda t: replace_by(t / "d", lambda path: path.mkdir()),
    ],
    "modes, owners and attributes change": [
        both(lambda t: (t / "file").chmod(0o4711), lambda t: (t / "d/e").chmod(0o700)),
        lambda t: os.chown(t / "link", 1, 2, follow_symlinks=False),
        lambda t: os.setxattr(t / "d", "user.new", b""),
        lambda t: os.removexattr(t / "file", "user.colour"),
        lambda t: os.setxattr(t / "file", "trusted.overlay.opaque", b"y"),
        lambda t: os.removexattr(t / "d", "user.new"),
    ],
    "the root's own change": [
        lambda t: t.chmod(0o700),
        lambda t: os.setxattr(t, "user.new", b"1"),
        both(lambda t: os.removexattr(t, "user.new"), lambda t: os.chown(t, 1, 1)),
    ],
    "names are no UTF-8": [
        lambda t: os.mkdir(os.fsencode(t) + ODD),
        lambda t: os.mkfifo(os.fsencode(t) + ODD + b"/ \n"),
        lambda t: os.rmdir(os.fsencode(t) + b"/empty"),
    ],
    "sparse, empty and unreadable files": [
        both(lambda t: sparse(t / "sparse"), lambda t: (t / "nothing").touch()),
        lambda t: unreadable(t / "secret"),
        lambda t: (t / "secret").write_text("another"),
    ],
}


@pytest.mark.parametrize("by_record", [True, False])
@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_each_chain_shows_what_the_mount_showed(
    stage: Stage, story: list[Act], by_record: bool
) -> None:
    told = []
    for act in [both(), *story, both()]:
        act(stage.merged)
        before = trees.snapshot(stage.merged)
        stage.seal(by_record=by_record)
        told.append((list(stage.chain), before))
    assert trees.snapshot(stage.merged) == told[-1][1], "the mount shows what it did"
    for chain, tree in told:
        with stage.shown(chain) as shown:
            assert not trees.differences(alone(trees.snapshot(shown)), alone(tree))


def put(path: Path, how: int, content: str) -> None:
    """Write to a file; a FIFO without a reader is no place to wait at."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | how)
    try:
        os.write(file, content.encode())
    finally:
        os.close(file)


DEEDS: dict[str, Callable[[Path, Path, int], object]] = {
    "write": lambda path, _, number: put(path, os.O_TRUNC, f"{number}"),
    "append": lambda path, _, number: put(path, os.O_APPEND, f"{number}"),
    "mkdir": lambda path, *_: path.mkdir(),
    "remove": lambda path, *_: delete(path),
    "rename": lambda path, other, _: path.rename(other),
    "link": lambda path, other, _: os.link(path, other, follow_symlinks=False),
    "symlink": lambda path, other, _: path.symlink_to(other),
    "chmod": lambda path, _, number: path.chmod(0o700 + number % 0o100),
    "fifo": lambda path, *_: os.mkfifo(path),
    "attribute": lambda path, _, number: os.setxattr(path, "user.a", b"%d" % number),
    "remake": lambda path, *_: replace_by(path, Path.mkdir),
}


def do(tree: Path, number: int, what: str, one: str, other: str) -> None:
    """Do it if it can be done."""
    with suppress(OSError):
        DEEDS[what](tree / one, tree / other, number)


NAMES = st.sampled_from(
    ["a", "b", "c", "d", "d/e", "d/e/one", "d/two", "a/a", "a/b", "b/a", "file"]
)
EDITS = st.lists(st.tuples(st.sampled_from(list(DEEDS)), NAMES, NAMES), max_size=6)
CHAPTERS = st.lists(st.tuples(EDITS, EDITS, st.booleans(), st.booleans()), min_size=1, max_size=6)


@settings(COMMON, max_examples=2000 if IS_LONG else 40)
@given(chapters=CHAPTERS)
def test_so_does_any_chain_after_any_edits(
    ground: Ground, chapters: list[tuple[Edits, Edits, bool, bool]]
) -> None:
    """Half of the edits are made while a layer is being filled."""
    place = ground.fresh("s")
    place.mkdir()
    try:
        stage, told, number = Stage(place, base), [], 0

        def edit(edits: Edits) -> None:
            nonlocal number
            for each in edits:
                number += 1
                do(stage.merged, number, *each)

        with stage.mounted():
            for before, between, by_record, frozen in chapters:
                edit(before)
                meanwhile = partial(edit, between) if frozen else int
                stage.seal(by_record=by_record, frozen=frozen, between=meanwhile)
                told.append((list(stage.chain), trees.snapshot(stage.merged)))
            for chain, tree in told:
                with stage.shown(chain) as shown:
                    found = trees.differences(alone(trees.snapshot(shown)), alone(tree))
                    assert not found, "\n".join(found)
    finally:
        trees.remove(place)
