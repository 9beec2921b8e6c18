"""A fingerprint is the same for the same tree, and another one after any change that shows."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from envstack.errors import Cancelled
from envstack.sources import fingerprint
from tests.support import trees, waiting
from tests.support.edits import apply, chmod, link, mkdir, remove, rename, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.edits import Edit

BEGINNING: list[Edit] = [
    write("a", "a\n"),
    write("b", "b\n"),
    link("b", "c"),
    mkdir("d"),
    mkdir("d/e"),
    write("d/e/f", "f\n"),
    write("d/x\nÿ", "odd\n"),
    lambda root: (root / "link").symlink_to("a"),
    lambda root: os.mkfifo(root / "fifo"),
]

FILES = ("a", "b", "c", "d/e/f", "d/x\nÿ")
DIRECTORIES = ("d", "d/e")


def retarget(target: str) -> Edit:
    def edit(root: Path) -> None:
        fresh = root / "fresh"
        fresh.symlink_to(target)
        os.utime(fresh, ns=(0, (root / "link").lstat().st_mtime_ns), follow_symlinks=False)
        fresh.rename(root / "link")

    return edit


def touch(path: str, by_ns: int) -> Edit:
    def edit(root: Path) -> None:
        mtime_ns = (root / path).lstat().st_mtime_ns
        os.utime(root / path, ns=(0, mtime_ns + by_ns), follow_symlinks=False)

    return edit


files = st.sampled_from(FILES)
everything = st.sampled_from((*FILES, *DIRECTORIES))
names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..", ".envstack"))
edits = st.one_of(
    st.builds(write, files, st.text("ab\n", min_size=6)),
    st.builds(touch, st.sampled_from((*FILES, "link", "fifo")), st.sampled_from([1, -1, 10**9])),
    st.builds(chmod, everything, st.sampled_from([0o600, 0o711, 0o4755])),
    st.builds(remove, everything),
    st.builds(retarget, st.sampled_from(["b", "../a", "a "])),
    st.builds(write, st.builds("d/{}".format, names)),
    st.builds(mkdir, st.builds("d/e/{}".format, names)),
    st.builds(rename, files, st.sampled_from(["new", "d/new", "d/e/new"])),
)
"""Edits that change what a reader sees; none changes bytes alone."""


def look(root: Path, since_ns: int = 1 << 62) -> fingerprint.Seen:
    return fingerprint.look(os.fsencode(root), since_ns, lambda _count: None)


def digest(root: Path) -> str:
    return look(root).fingerprint.digest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    apply(made, *BEGINNING)
    return made


@settings(deadline=None, max_examples=200)
@given(edit=edits)
def test_any_one_edit_changes_it_and_none_does_not(edit: Edit) -> None:
    with TemporaryDirectory() as place:
        root = Path(place) / "root"
        root.mkdir()
        apply(root, *BEGINNING)
        before = digest(root)
        assert digest(root) == before
        try:
            edit(root)
        except OSError:
            assume(False)
        assert digest(root) != before


def test_it_is_that_of_a_copy_with_the_same_times(root: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", root, tmp_path / "copy"], check=True)
    before, after = look(root).fingerprint, look(tmp_path / "copy").fingerprint
    assert (before.digest, before.entries) == (after.digest, after.entries)
    assert before.entries == 9
    assert before.root != after.root, "it is another directory"


@pytest.mark.parametrize(
    "edit",
    [
        lambda root: [(root / "d/temporary").touch(), (root / "d/temporary").unlink()],
        lambda root: os.utime(root / "a", ns=(0, (root / "a").stat().st_mtime_ns)),
        lambda root: os.chmod(root, 0o700),
        lambda root: (root / ".envstack" / "merged").mkdir(parents=True),
        lambda root: (root / "a").read_bytes(),
    ],
)
def test_what_no_reader_of_the_merged_tree_sees_does_not_change_it(
    root: Path, edit: Callable[[Path], object]
) -> None:
    before = digest(root)
    edit(root)
    assert digest(root) == before


@pytest.mark.kernel
def test_what_is_mounted_upon_it_is_no_part_of_it(project: Path) -> None:
    apply(project, *BEGINNING)
    (project / "d/e/f").unlink()
    before = look(project).fingerprint
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", project / "d/e"], check=True)
    try:
        (project / "d/e/inside").touch()
        mounted = look(project).fingerprint
        assert mounted.entries == before.entries - 1
        (project / "d/e/inside").chmod(0o600)
        (project / "d/e").chmod(0o700)
        assert digest(project) == mounted.digest
    finally:
        subprocess.run(["umount", project / "d/e"], check=True)
    assert digest(project) == before.digest


def test_it_is_read_through_a_descriptor(root: Path) -> None:
    before = look(root).fingerprint
    opened = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        after = look(Path(f"/proc/self/fd/{opened}")).fingerprint
    finally:
        os.close(opened)
    assert (after.digest, after.root) == (before.digest, before.root)


def later(path: Path) -> int:
    """Return an instant that a change to `path` can be seen to come after."""
    instant = time.time_ns()

    def is_past() -> bool:
        os.utime(path)
        return path.stat().st_ctime_ns > instant

    waiting.until(is_past, "the next tick of the clock")
    return time.time_ns()


@pytest.mark.parametrize(
    ("edit", "shown"),
    [
        (write("a", "other"), [b"a"]),
        (chmod("d/e", 0o700), [b"d/e"]),
        (write("d/e/new"), [b"d/e/new"]),
        (remove("d/e/f"), [b"d/e"]),
        (remove("a"), [b"."]),
        (rename("a", "d/new"), [b"d/new"]),
    ],
)
def test_it_says_where(root: Path, tmp_path: Path, edit: Edit, shown: list[bytes]) -> None:
    clock = tmp_path / "clock"
    clock.touch()
    since_ns = later(clock)
    later(clock)
    edit(root)
    assert sorted(look(root, since_ns).paths) == shown


def test_whoever_is_told_how_far_it_is_may_end_it(root: Path) -> None:
    def tick(_count: int) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        fingerprint.look(os.fsencode(root), 0, tick)


@pytest.mark.parametrize("what", ["nothing", "a file"])
def test_what_is_no_directory_has_none(tmp_path: Path, what: str) -> None:
    if what == "a file":
        (tmp_path / "place").touch()
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        look(tmp_path / "place")


def test_a_directory_that_grows_deep_is_followed_to_its_end(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(1500):
            os.mkdir("directory", dir_fd=here)
            deeper = os.open("directory", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        before = look(tmp_path).fingerprint
        os.mkdir("last", dir_fd=here)
    finally:
        os.close(here)
    after = look(tmp_path).fingerprint
    trees.remove(tmp_path / "directory")
    assert before.entries == 1500
    assert after.entries == 1501
    assert after.digest != before.digest


def test_what_vanishes_meanwhile_is_left_out(root: Path) -> None:
    """A tree in use: whatever is seen, the look comes to its end."""
    churn = subprocess.Popen(
        ["sh", "-c", "while :; do mkdir -p x/y; touch x/y/z; rm -r x; done"],
        cwd=root,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = {look(root).fingerprint.entries for _ in range(200)}
    finally:
        churn.kill()
        churn.wait()
    assert found <= {9, 10, 11, 12}
