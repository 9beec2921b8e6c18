"""What `diff` costs and withstands; layers are plain directories with marks made by hand."""

from __future__ import annotations

import os
import resource
import stat
import sys
from typing import TYPE_CHECKING, Any

import pytest

from envstack.errors import Damaged
from envstack.model import Change, ChangeType, FileKind
from envstack.overlay.diff import LayerTree, diff, differences, differs
from envstack.overlay.marks import Marks
from tests.support import trees

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def layer(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`layer("name")` makes an empty layer; deep ones are taken away by rm(1)."""

    def make(name: str) -> Path:
        path = tmp_path / name
        path.mkdir()
        return path

    yield make
    trees.remove(tmp_path)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Listings:
    """The names of directories that the process lists, told by the interpreter's audit events.

    A hook cannot be taken out again: this one falls silent when the test is over.
    """

    def __init__(self) -> None:
        self.seen: list[bytes] | None = None

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.seen is not None and event in {"os.listdir", "os.scandir"}:
            where = arguments[0]
            path = f"/proc/self/fd/{where}" if isinstance(where, int) else str(where)
            self.seen.append(os.readlink(os.fsencode(path)))


@pytest.fixture(scope="module")
def audit() -> Listings:
    listings = Listings()
    sys.addaudithook(listings)
    return listings


@pytest.fixture
def listed(audit: Listings) -> Iterator[list[bytes]]:
    """The directories listed since the test began."""
    audit.seen = []
    yield audit.seen
    audit.seen = None


def tree(path: Path) -> LayerTree:
    return LayerTree(os.fsencode(path))


def paths(a: list[LayerTree], b: list[LayerTree]) -> list[bytes]:
    return [change.path for change in diff(a, b)]


def dig(root: Path, depth: int, *, name: bytes = b"d") -> None:
    """Make a chain of directories, each with a file `a` before and `z` after the next one."""
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        for file in (b"a", b"z"):
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here))
        os.mkdir(name, dir_fd=here)
        there = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)


def test_layers_that_both_chains_share_are_not_listed(
    layer: Callable[[str], Path], listed: list[bytes]
) -> None:
    lowers = [layer("middle"), layer("bottom")]
    for lower in lowers:
        (lower / "shared/deep").mkdir(parents=True)
        (lower / "shared/deep/file").touch()
        (lower / "untouched/deep").mkdir(parents=True)
    old, new = layer("old"), layer("new")
    (old / "only").mkdir()
    (new / "shared/deep").mkdir(parents=True)
    (new / "shared/deep/file").write_text("changed")
    shared = [tree(lower) for lower in lowers]
    assert paths([tree(old), *shared], [tree(new), *shared]) == [b"only", b"shared/deep/file"]
    expected = [old, old / "only", new, new / "shared", new / "shared/deep"]
    assert sorted(listed) == sorted(map(os.fsencode, expected))


def test_only_where_a_wanted_path_leads_anything_is_listed(
    layer: Callable[[str], Path], listed: list[bytes]
) -> None:
    old, new = layer("old"), layer("new")
    for path in ("a/wanted/deep", "a/other", "b"):
        (new / path).mkdir(parents=True)
    rows = list(differences([tree(old)], [tree(new)], [b"a/wanted"]))
    assert [row.change.path for row in rows] == [b"a/wanted", b"a/wanted/deep"]
    expected = [new / "a/wanted", new / "a/wanted/deep"]
    assert sorted(listed) == sorted(map(os.fsencode, expected))


def test_a_chain_is_the_same_as_itself_without_a_look_at_it(
    layer: Callable[[str], Path], listed: list[bytes]
) -> None:
    chain = [tree(layer("top")), tree(layer("bottom"))]
    assert not differs(chain, chain)
    assert listed == []


@pytest.mark.skipif(os.geteuid() != 0, reason="trusted attributes take root")
def test_below_an_opaque_directory_the_hidden_layers_are_listed_and_no_others(
    layer: Callable[[str], Path], listed: list[bytes]
) -> None:
    top, bottom = layer("top"), layer("bottom")
    for name in ("hidden", "shown"):
        (bottom / name).mkdir()
        (bottom / name / "file").touch()
        (top / name).mkdir()
    os.setxattr(top / "hidden", "trusted.overlay.opaque", b"y")
    assert paths([tree(bottom)], [tree(top), tree(bottom)]) == [b"hidden/file"]
    expected = [top, top / "hidden", top / "shown", bottom / "hidden"]
    assert sorted(listed) == sorted(map(os.fsencode, expected))


def test_marks_of_unprivileged_mounts_are_read_by_their_own_name(
    layer: Callable[[str], Path],
) -> None:
    top, bottom = layer("top"), layer("bottom")
    for place in (top, bottom):
        (place / "d").mkdir()
    (bottom / "d/file").touch()
    os.setxattr(top / "d", "user.overlay.opaque", b"y")
    os.setxattr(top / "d", "user.overlay.origin", b"")
    user = [LayerTree(os.fsencode(place), Marks.USER) for place in (top, bottom)]
    assert paths(user[1:], user) == [b"d/file"]
    trusted = [tree(top), tree(bottom)]
    assert paths(trusted[1:], trusted) == [b"d"], "to a trusted mount it is a user's attribute"


def test_two_orders_of_the_same_layers_are_compared(layer: Callable[[str], Path]) -> None:
    one, other = layer("one"), layer("other")
    for place, content in ((one, "1"), (other, "2")):
        (place / "d").mkdir()
        (place / "d/both").write_text(content)
    chain = [tree(one), tree(other)]
    assert paths(chain, chain[::-1]) == [b"d/both"]


def test_differs_stops_at_the_first_change(
    layer: Callable[[str], Path], listed: list[bytes]
) -> None:
    bottom, top = layer("bottom"), layer("top")
    (top / "a").touch()
    (top / "b/c").mkdir(parents=True)
    assert differs([tree(bottom)], [tree(top), tree(bottom)])
    assert listed == [os.fsencode(top)]


def test_changes_come_sorted_by_path(layer: Callable[[str], Path]) -> None:
    bottom, top = layer("bottom"), layer("top")
    for name in ("a/b", "a-b/c", "a", "a.b", "!", "a0", "b/a/c", "b/a!"):
        path = top / name
        path.mkdir(parents=True, exist_ok=True)
    top.chmod(0o700)
    bottom.chmod(0o755)
    found = paths([tree(bottom)], [tree(top), tree(bottom)])
    assert found == sorted(found)
    assert {b"!", b".", b"a", b"a-b", b"a/b", b"a0"} <= set(found)


@pytest.mark.slow
def test_trees_beyond_path_max_and_the_recursion_limit_are_walked_with_few_descriptors(
    layer: Callable[[str], Path], few_descriptors: None
) -> None:
    depth = 3000
    bottom, top, empty = layer("bottom"), layer("top"), layer("empty")
    dig(bottom, depth)
    dig(top, depth)
    (top / "d/d/z").write_text("changed")
    before = len(os.listdir("/proc/self/fd"))
    assert paths([tree(bottom)], [tree(top)]) == [b"d/d/z"]
    for shown in (tree(top), LayerTree(os.fsencode(top), marked_by_type=True)):
        counted = 0
        last = b""
        for change in diff([tree(empty)], [shown]):
            assert change.change is ChangeType.ADDED
            assert change.path > last
            counted, last = counted + 1, change.path
        assert counted == depth * 3
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_of_255_bytes_may_nest_beyond_path_max(layer: Callable[[str], Path]) -> None:
    empty, top = layer("empty"), layer("top")
    name = b"\xff\n" * 127 + b"x"
    dig(top, 40, name=name)
    found = paths([tree(empty)], [tree(top)])
    assert len(found) == 120
    assert b"/".join([name] * 40) in found


def test_a_chain_of_more_layers_than_descriptors_are_held_is_compared(
    layer: Callable[[str], Path], few_descriptors: None
) -> None:
    lowers = []
    for number in range(300):
        lower = layer(f"lower{number}")
        (lower / "d").mkdir()
        (lower / f"d/{number}").touch()
        lowers.append(tree(lower))
    top = layer("top")
    (top / "d").mkdir()
    (top / "d/299").write_text("changed")
    (top / "d/new").touch()
    assert paths(lowers, [tree(top), *lowers]) == [b"d/299", b"d/new"]


def test_a_name_that_vanishes_between_listing_and_look_is_not_there(
    layer: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bottom, top = layer("bottom"), layer("top")
    (top / "d").mkdir()
    (top / "file").touch()
    list_directory = os.listdir

    def list_and_vanish(where: int) -> list[str]:
        names = list_directory(where)
        if (top / "d").exists():
            (top / "d").rmdir()
            (top / "file").unlink()
        return names

    monkeypatch.setattr(os, "listdir", list_and_vanish)
    assert paths([tree(bottom)], [tree(top), tree(bottom)]) == []


@pytest.mark.parametrize("instead", ["nothing", "symlink", "fifo", "directory"])
def test_a_file_that_is_replaced_before_it_is_read_is_looked_at_anew(
    layer: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, instead: str
) -> None:
    bottom, top = layer("bottom"), layer("top")
    for place, content in ((top, "1"), (bottom, "2")):
        (place / "file").write_text(content)
    open_file = os.open
    done: list[str] = []

    def replace_and_open(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int = -1) -> int:
        if path == b"file" and not done:
            done.append(instead)
            (top / "file").unlink()
            if instead == "symlink":
                (top / "file").symlink_to("elsewhere")
            elif instead == "fifo":
                os.mkfifo(top / "file")
            elif instead == "directory":
                (top / "file").mkdir()
        return open_file(path, flags, mode, dir_fd=None if dir_fd < 0 else dir_fd)

    monkeypatch.setattr(os, "open", replace_and_open)
    (change,) = diff([tree(bottom)], [tree(top)])
    if instead == "nothing":
        assert change == Change(b"file", ChangeType.DELETED, FileKind.FILE)
    else:
        assert change.change is ChangeType.MODIFIED
        kinds = {"symlink": "symlink", "fifo": "other", "directory": "dir"}
        assert change.kind == kinds[instead]


def test_a_live_upper_that_is_churned_never_breaks_a_diff(layer: Callable[[str], Path]) -> None:
    """A child process makes, replaces and removes while the tree is compared."""
    bottom, top = layer("bottom"), layer("top")
    for place in (bottom, top):
        (place / "stays").mkdir()
        (place / "stays/file").write_text(place.name)
    pid = os.fork()
    if pid == 0:
        churn(top)
    try:
        typed = LayerTree(os.fsencode(top), marked_by_type=True)
        for _ in range(200):
            assert b"stays/file" in paths([tree(bottom)], [tree(top), tree(bottom)])
            assert b"stays/file" in paths([tree(bottom)], [typed, tree(bottom)])
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def churn(top: Path) -> None:
    """Change the tree for ever; never returns."""
    try:
        while True:
            (top / "x/y/z").mkdir(parents=True)
            (top / "x/y/z/file").write_text("1")
            os.rename(top / "x/y", top / "y")
            os.symlink("y", top / "x/y")
            (top / "x/y").unlink()
            (top / "x").rmdir()
            (top / "y/z/file").unlink()
            (top / "y/z").rmdir()
            (top / "y").rmdir()
    finally:
        os._exit(1)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 1, 5 << 20])
def test_files_are_told_apart_by_any_byte(layer: Callable[[str], Path], size: int) -> None:
    one, other = layer("one"), layer("other")
    content = os.urandom(size)
    (one / "file").write_bytes(content)
    (other / "file").write_bytes(content)
    assert not differs([tree(one)], [tree(other)])
    for place in {0, size // 2, size - 1} if size else set():
        changed = bytearray(content)
        changed[place] ^= 1
        (other / "file").write_bytes(changed)
        assert paths([tree(one)], [tree(other)]) == [b"file"]


def test_holes_are_the_zeros_they_read_as_and_are_not_read(layer: Callable[[str], Path]) -> None:
    one, other = layer("one"), layer("other")
    huge = 1 << 42
    for place in (one, other):
        (place / "huge").touch()
        os.truncate(place / "huge", huge)
        with (place / "huge").open("r+b") as file:
            file.seek(huge - 5000)
            file.write(b"data")
    with (other / "huge").open("r+b") as file:
        file.seek(1 << 30)
        file.write(bytes(100))
    assert not differs([tree(one)], [tree(other)])
    with (one / "huge").open("r+b") as file:
        file.seek(1 << 35)
        file.write(b"x")
    assert paths([tree(one)], [tree(other)]) == [b"huge"]


@pytest.mark.skipif(os.geteuid() != 0, reason="making devices takes root")
def test_devices_are_told_apart_by_their_numbers(layer: Callable[[str], Path]) -> None:
    one, other = layer("one"), layer("other")
    for place, minor in ((one, 3), (other, 5)):
        os.mknod(place / "device", 0o600 | stat.S_IFCHR, os.makedev(1, minor))
        os.mknod(place / "same", 0o600 | stat.S_IFBLK, os.makedev(7, 1))
    assert paths([tree(one)], [tree(other)]) == [b"device"]


def test_a_layer_that_is_not_there_is_damage(layer: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="missing"):
        list(diff([tree(layer("there"))], [tree(tmp_path / "missing")]))


def test_below_a_directory_of_one_layer_marked_by_types_no_entry_is_looked_at(
    layer: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bottom, top = layer("bottom"), layer("top")
    dig(top, 3)
    looked: list[bytes] = []
    look = os.stat

    def see(name: bytes, **how: Any) -> os.stat_result:
        looked.append(name)
        return look(name, **how)

    monkeypatch.setattr(os, "stat", see)
    typed = LayerTree(os.fsencode(top), marked_by_type=True)
    expected = [b"a", b"d", b"d/a", b"d/d", b"d/d/a", b"d/d/d", b"d/d/z", b"d/z", b"z"]
    assert paths([tree(bottom)], [typed, tree(bottom)]) == expected
    assert set(looked) == {b".", b"a", b"d", b"z"}, "those beside what the other side might show"


def test_names_are_told_and_given_up_one_by_one_without_a_look(
    layer: Callable[[str], Path],
) -> None:
    empty, top = layer("empty"), layer("top")
    dig(top, 3)
    ticks: list[None] = []

    class GivenUpError(Exception):
        pass

    def tick() -> None:
        ticks.append(None)
        if len(ticks) == 9:
            raise GivenUpError

    typed = LayerTree(os.fsencode(top), marked_by_type=True)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(GivenUpError):
        list(diff([tree(empty)], [typed], tick))
    assert len(os.listdir("/proc/self/fd")) == before
