"""Patches: what git takes, made from two plain directories as the daemon would name them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envstack.cli.patch import patches
from envstack.cli.sides import MOST_TEXT, Sides
from envstack.cli.stat import Lines, lines_of
from envstack.daemon.sides import comparison
from envstack.errors import StateError
from envstack.overlay.diff import LayerTree, differences
from tests.support import needs

if TYPE_CHECKING:
    from pathlib import Path

File = tuple[str, bytes]
"""`file`, `program` or `link`, and the content or target."""

Tree = dict[bytes, File]

NAMES = [b"a", b"b-c", b"two words", b"\xff", 'grün"'.encode(), b"tab\there", b"line\nend", b"\\"]

files = st.tuples(
    st.sampled_from(["file", "program"]),
    st.lists(st.sampled_from([b"x", b"y\r", b"z", b"", b"\xe9", b"-- "]), max_size=9).flatmap(
        lambda lines: st.sampled_from([b"\n".join(lines), b"".join(line + b"\n" for line in lines)])
    ),
)
links = st.tuples(st.just("link"), st.sampled_from([b"gone", b"../b", b"\xff"]))


@st.composite
def tree(draw: st.DrawFn) -> Tree:
    """Draw files at one and two levels; what is a file is no directory."""
    made: Tree = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4)):
        for path in draw(st.sampled_from([[name], [name + b"/" + below for below in NAMES[:3]]])):
            made[path] = draw(files | links)
    return made


def write(root: bytes, tree: Tree) -> None:
    os.mkdir(root)
    for path, (kind, data) in tree.items():
        place = os.path.join(root, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if kind == "link":
            os.symlink(data, place)
            continue
        with open(place, "wb") as file:
            file.write(data)
        os.chmod(place, 0o755 if kind == "program" else 0o644)


def read(root: bytes) -> Tree:
    """Return what git knows of a directory."""
    found: Tree = {}
    for where, directories, names in os.walk(root):
        for name in [*directories, *names]:
            place = os.path.join(where, name)
            mode = os.lstat(place).st_mode
            path = os.path.relpath(place, root)
            if stat.S_ISLNK(mode):
                found[path] = "link", os.readlink(place)
            elif stat.S_ISREG(mode):
                with open(place, "rb") as file:
                    found[path] = "program" if mode & 0o100 else "file", file.read()
    return found


def patched(a: bytes, b: bytes) -> bytes:
    """Return the patch from one directory to the other."""
    with closing(differences([LayerTree(a)], [LayerTree(b)])) as found:
        answer = comparison(found)
    with Sides(answer["trees"]) as sides:
        pairs = [sides.pair(row) for row in answer["changes"]]
    return b"".join(line.data for line in patches(pairs))


@pytest.fixture
def two(tmp_path: Path) -> tuple[bytes, bytes]:
    """Two empty directories."""
    a, b = (os.fsencode(tmp_path / name) for name in "ab")
    for path in (a, b):
        os.mkdir(path)
    return a, b


def put(root: bytes, name: bytes, data: bytes) -> None:
    with open(os.path.join(root, name), "wb") as file:
        file.write(data)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(a=tree(), b=tree())
def test_git_apply_turns_one_tree_into_the_other(tmp_path: Path, a: Tree, b: Tree) -> None:
    git = needs.program("git")
    ground = os.fsencode(tmp_path / "ground")
    os.mkdir(ground)
    try:
        old, new = os.path.join(ground, b"old"), os.path.join(ground, b"new")
        write(old, a)
        write(new, b)
        text = patched(old, new)
        if text:
            command = [git, "apply", "--whitespace=nowarn", "-"]
            environ = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
            done = subprocess.run(
                command, cwd=old, input=text, capture_output=True, check=False, env=environ
            )
            assert done.returncode == 0, (done.stderr, text)
        assert read(old) == read(new)
    finally:
        shutil.rmtree(ground)


def test_patch_takes_it_too(two: tuple[bytes, bytes]) -> None:
    program = needs.program("patch")
    a, b = two
    lines = [b"%d\n" % number for number in range(60)]
    put(a, b"long", b"".join(lines))
    put(b, b"long", b"".join([*lines[:9], b"new\n", *lines[10:50], *lines[55:]]))
    put(a, b"gone", b"no newline")
    put(b, b"two words", b"one\n")
    text = patched(a, b)
    assert text.count(b"@@ -") == 4
    subprocess.run([program, "-p1", "--quiet"], cwd=a, input=text, check=True)
    assert read(a) == read(b)


def test_a_patch_is_what_git_prints(two: tuple[bytes, bytes], tmp_path: Path) -> None:
    git = needs.program("git")
    a, b = two
    put(a, b"f", b"".join(b"%d\n" % number for number in range(30)))
    put(b, b"f", b"".join(b"%d\n" % number for number in range(30) if number not in (7, 20)))
    put(b, b"new", b"")
    os.chmod(os.path.join(a, b"f"), 0o755)
    command = [git, "diff", "--no-index", "--full-index", "a", "b"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).stdout
    # What git says of the lines around a hunk, and its doubled prefixes, are not ours.
    expected = re.sub(rb"(?<![a-z])[ab]/([ab]/)", rb"\1", printed)
    expected = re.sub(rb"^diff --git b/", b"diff --git a/", expected, flags=re.MULTILINE)
    expected = re.sub(rb"^(@@ .* @@) .*$", rb"\1", expected, flags=re.MULTILINE)
    assert patched(a, b) == expected


@pytest.mark.parametrize("size", [MOST_TEXT + 1, 40])
def test_what_is_no_text_is_named_and_not_shown(two: tuple[bytes, bytes], size: int) -> None:
    a, b = two
    put(a, b"x", b"\0" * size)
    put(b, b"x", b"\0" * (size - 1) + b"1")
    assert patched(a, b) == b"Binary files a/x and b/x differ\n"


def test_git_and_patch_pass_over_what_is_no_text(two: tuple[bytes, bytes], tmp_path: Path) -> None:
    """Also right behind blocks without hunks, which git would take it for the content of."""
    programs = needs.program("git"), needs.program("patch")
    a, b = two
    for number, (old, new) in enumerate([(b"\0", b"\0\0"), (None, b"\0"), (b"\0", None)]):
        for name, sides in (
            (b"%d-binary" % number, (old, new)),
            (b"%d-text" % number, (b"1\n2\n", b"1\ntwo")),
            (b"%d0-empty" % number, (None, b"")),
            (b"%d1-binary" % number, (old, new)),
            (b"%d2-program" % number, (b"as it was\n", b"as it was\n")),
            (b"%d3-binary" % number, (old, new)),
        ):
            for root, data in zip(two, sides, strict=True):
                if data is not None:
                    put(root, name, data)
        os.chmod(os.path.join(b, b"%d2-program" % number), 0o755)
    os.symlink(b"1-text", os.path.join(a, b"link-to-binary"))
    put(b, b"link-to-binary", b"\0")
    put(a, b"binary-to-link", b"\0")
    os.symlink(b"1-text", os.path.join(b, b"binary-to-link"))
    text = patched(a, b)
    assert text.count(b"Binary files ") == 11
    before, after = read(a), read(b)
    touched = {name for name in {*before, *after} if b"binary" not in name}
    expected = {**before, **{name: after[name] for name in touched}}
    environ = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    copies = [tmp_path / "for git", tmp_path / "for patch"]
    for copy in copies:
        shutil.copytree(os.fsdecode(a), copy, symlinks=True)
    for copy, command in (
        (copies[0], [programs[0], "apply", "--check", "-"]),
        (copies[0], [programs[0], "apply", "-"]),
        (copies[1], [programs[1], "-p1", "--quiet"]),
    ):
        subprocess.run(command, cwd=copy, input=text, check=True, env=environ)
    assert [read(os.fsencode(copy)) for copy in copies] == [expected, expected]


def test_a_large_file_whose_mode_alone_changed_is_not_said_to_differ(
    two: tuple[bytes, bytes],
) -> None:
    a, b = two
    for root in two:
        put(root, b"x", b"x" * (MOST_TEXT + 1))
    os.chmod(os.path.join(b, b"x"), 0o755)
    assert patched(a, b) == b"diff --git a/x b/x\nold mode 100644\nnew mode 100755\n"


def test_what_a_patch_cannot_say_is_left_out(two: tuple[bytes, bytes]) -> None:
    a, b = two
    os.mkdir(os.path.join(b, b"directory"))
    os.mkfifo(os.path.join(b, b"fifo"))
    for root, mode in zip(two, (0o644, 0o600), strict=True):
        put(root, b"f", b"same")
        os.chmod(os.path.join(root, b"f"), mode)
    assert patched(a, b) == b""


def test_what_vanished_meanwhile_is_not_there(two: tuple[bytes, bytes]) -> None:
    a, b = two
    put(a, b"x", b"old\n")
    row = {"path": "x", "old": 0, "new": 1}
    with Sides([os.fsdecode(a), os.fsdecode(b)]) as sides:
        assert lines_of(sides.pair(row)) == Lines(0, 1)
    os.unlink(os.path.join(a, b"x"))
    os.rmdir(a)
    with Sides([os.fsdecode(a), os.fsdecode(b)]) as sides, pytest.raises(StateError):
        sides.pair(row)


def test_lines_are_counted_on_both_sides(two: tuple[bytes, bytes]) -> None:
    a, b = two
    put(a, b"x", b"1\n2\n3\n")
    put(b, b"x", b"1\ntwo\n3\n4")
    os.symlink(b"x", os.path.join(b, b"link"))
    os.mkdir(os.path.join(b, b"d"))
    with Sides([os.fsdecode(a), os.fsdecode(b)]) as sides:
        assert lines_of(sides.pair({"path": "x", "old": 0, "new": 1})) == Lines(2, 1)
        assert lines_of(sides.pair({"path": "link", "old": None, "new": 1})) == Lines(1, 0)
        assert lines_of(sides.pair({"path": "d", "old": None, "new": 1})) is None
