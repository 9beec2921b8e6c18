"""`diff` against what the kernel's own overlayfs shows before and after."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envstack.errors import Unsupported
from envstack.overlay.diff import LayerTree, diff, differences, differs
from tests.support import trees

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.support.trees import Tree

    Act = Callable[[Path], object]

pytestmark = pytest.mark.kernel

OURS = "redirect_dir=nofollow,index=off,metacopy=off"


class Chain:
    """A chain of layers that can be mounted with a fresh upper, again and again."""

    def __init__(self, ground: Path) -> None:
        ground.mkdir(exist_ok=True)
        self.ground = ground
        self.merged = ground / "merged"
        self.merged.mkdir()
        self.layers: list[Path] = []
        self._written: set[Path] = set()

    def lower(self, fill: Act) -> None:
        """Put a layer on top that is written by hand."""
        layer = self._fresh()
        fill(layer)
        self.layers.insert(0, layer)

    @contextmanager
    def mounted(self, options: str = "redirect_dir=off,index=off,metacopy=off") -> Iterator[Path]:
        """Mount a fresh upper on the chain; it is the topmost layer from now on."""
        upper, work = self._fresh(), self.ground / f"work{len(self.layers)}"
        work.mkdir()
        lowers = ":".join(layer.name for layer in self.layers)
        self._take_root_of(self.layers[0], upper)
        options += f",lowerdir={lowers},upperdir={upper.name},workdir={work.name}"
        self.layers.insert(0, upper)
        self._written.add(upper)
        with self._overlay(options):
            yield self.merged

    @contextmanager
    def shown(self) -> Iterator[Path]:
        """Mount the chain read-only, as it is."""
        lowers = ":".join(layer.name for layer in [*self.layers, self._fresh("empty")])
        with self._overlay(f"ro,redirect_dir=off,metacopy=off,lowerdir={lowers}"):
            yield self.merged

    @contextmanager
    def _overlay(self, options: str) -> Iterator[None]:
        mount = ["mount", "-t", "overlay", "-o", options, "none", str(self.merged)]
        subprocess.run(mount, check=True, cwd=self.ground)
        try:
            yield
        finally:
            subprocess.run(["umount", self.merged], check=True)

    def now(self) -> list[LayerTree]:
        return [LayerTree(os.fsencode(layer)) for layer in self.layers]

    def now_by_type(self) -> list[LayerTree]:
        """The same, but what was written through a mount may be told by types."""
        return [
            LayerTree(os.fsencode(layer), marked_by_type=layer in self._written)
            for layer in self.layers
        ]

    def _fresh(self, kind: str = "layer") -> Path:
        layer = self.ground / f"{kind}{len(self.layers)}"
        layer.mkdir()
        return layer

    def _take_root_of(self, lower: Path, upper: Path) -> None:
        """Give a fresh upper the root metadata that is shown without it."""
        status = lower.stat()
        os.chown(upper, status.st_uid, status.st_gid)
        upper.chmod(stat.S_IMODE(status.st_mode))
        for name in os.listxattr(lower):
            if not name.startswith("trusted.overlay."):
                os.setxattr(upper, name, os.getxattr(lower, name))


@pytest.fixture
def chain(filesystem: Callable[[str], Path]) -> Chain:
    return Chain(filesystem("tmpfs"))


def found(a: Sequence[LayerTree], b: Sequence[LayerTree]) -> list[tuple[bytes, str, str]]:
    return [(row.path, str(row.change), str(row.kind)) for row in diff(a, b)]


def assert_judged(
    a: Sequence[LayerTree], before: Tree, b: Sequence[LayerTree], after: Tree
) -> None:
    """Compare `diff`, in both directions, with all that two looks at the merged tree tell."""
    assert found(a, b) == sorted(trees.changes(before, after))
    assert found(b, a) == sorted(trees.changes(after, before))
    assert differs(a, b) == bool(trees.changes(before, after))


NULL = os.makedev(1, 3)


def base(layer: Path) -> None:
    """A layer with one of everything."""
    (layer / "d/e/f").mkdir(parents=True)
    (layer / "d/e/f/deep").write_text("deep")
    (layer / "d/e/one").write_text("one")
    (layer / "d/two").write_text("two")
    (layer / "d-x").write_text("sorts between d and d/e")
    (layer / "file").write_text("file")
    (layer / "link").symlink_to("file")
    os.link(layer / "file", layer / "hard")
    os.mkfifo(layer / "pipe")
    (layer / "empty").mkdir()
    (layer / "covered/deep").mkdir(parents=True)
    (layer / "covered/deep/file").touch()
    os.setxattr(layer / "file", "user.colour", b"red")
    os.setxattr(layer / "d", "user.colour", b"red")


def remake(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def touch_by_metadata(tree: Path) -> None:
    os.setxattr(tree / "file", "user.colour", b"red")
    os.utime(tree / "d/two", ns=(1, 1))
    (tree / "d").chmod(0o755)
    os.chown(tree / "link", 0, 0, follow_symlinks=False)


def make_and_delete(tree: Path) -> None:
    (tree / "x").touch()
    (tree / "x").unlink()


def remake_fifo(tree: Path) -> None:
    (tree / "pipe").unlink()
    os.mkfifo(tree / "pipe", 0o644)


def sort_before_root(tree: Path) -> None:
    (tree / "!").touch()
    tree.chmod(0o700)


def retarget(tree: Path) -> None:
    (tree / "link").unlink()
    (tree / "link").symlink_to("elif")


def to_directory(tree: Path) -> None:
    (tree / "file").unlink()
    (tree / "file/below").mkdir(parents=True)


def to_file(tree: Path) -> None:
    shutil.rmtree(tree / "d")
    (tree / "d").write_text("was a directory")


def to_link(tree: Path) -> None:
    shutil.rmtree(tree / "d")
    (tree / "d").symlink_to("empty")


ACTS: dict[str, Act] = {
    "a file is added": lambda tree: (tree / "new").touch(),
    "a file is rewritten": lambda tree: (tree / "d/two").write_text("2"),
    "a file is rewritten at the same size": lambda tree: (tree / "d/two").write_text("TWO"),
    "a file is deleted": lambda tree: (tree / "d/e/one").unlink(),
    "a directory is deleted": lambda tree: shutil.rmtree(tree / "d"),
    "a directory is deleted and made anew": lambda tree: remake(tree / "d"),
    "a directory within is made anew": lambda tree: remake(tree / "d/e"),
    "a mode changes": lambda tree: (tree / "file").chmod(0o4711),
    "an owner changes": lambda tree: os.chown(tree / "link", 1, 2, follow_symlinks=False),
    "a directory's mode changes": lambda tree: (tree / "d/e").chmod(0o700),
    "an attribute is set": lambda tree: os.setxattr(tree / "d", "user.new", b""),
    "an attribute changes": lambda tree: os.setxattr(tree / "file", "user.colour", b"blu"),
    "an attribute is removed": lambda tree: os.removexattr(tree / "file", "user.colour"),
    "the root's mode changes": lambda tree: tree.chmod(0o700),
    "the root's attribute is set": lambda tree: os.setxattr(tree, "user.new", b"1"),
    "a directory is renamed by copying": lambda tree: shutil.move(tree / "d", tree / "moved"),
    "a file is renamed": lambda tree: os.rename(tree / "file", tree / "d/file"),
    "a socket is made": lambda tree: listen(tree / "socket"),
    "a device is made": lambda tree: os.mknod(tree / "null", stat.S_IFCHR, NULL),
    "a name of many bytes is made": lambda tree: os.mkdir(os.fsencode(tree) + b"/" + b"\xff" * 255),
    "names of odd bytes are made": lambda tree: (tree / " a\n\"b:c,d\\'*").mkdir(),
    "a symlink points elsewhere": retarget,
    "a file becomes a directory": to_directory,
    "a directory becomes a file": to_file,
    "a directory becomes a symlink": to_link,
    "a name before the root's is made": sort_before_root,
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_a_change_through_the_mount_is_told_exactly(chain: Chain, act: Act) -> None:
    chain.lower(base)
    a = chain.now()
    with chain.mounted() as tree:
        before = trees.snapshot(tree)
        act(tree)
        after = trees.snapshot(tree)
        assert before != after
        assert_judged(a, before, chain.now(), after)


NO_CHANGES: dict[str, Act] = {
    "nothing is done": lambda tree: None,
    "a file is rewritten with what it held": lambda tree: (tree / "file").write_text("file"),
    "times are changed": lambda tree: os.utime(tree / "d/e/one", ns=(1, 1)),
    "metadata is set to what it was": touch_by_metadata,
    "a file is made and deleted": make_and_delete,
    "a fifo is made anew": remake_fifo,
    "an empty directory is made anew": lambda tree: remake(tree / "empty"),
}


@pytest.mark.parametrize("act", NO_CHANGES.values(), ids=NO_CHANGES.keys())
def test_what_looks_as_before_is_no_change(chain: Chain, act: Act) -> None:
    chain.lower(base)
    a = chain.now()
    with chain.mounted() as tree:
        act(tree)
    assert found(a, chain.now()) == []
    assert not differs(a, chain.now())


def test_a_type_change_is_one_modified_and_its_children_came_or_went(chain: Chain) -> None:
    chain.lower(base)
    a = chain.now()
    with chain.mounted() as tree:
        to_file(tree)
        to_directory(tree)
    assert found(a, chain.now()) == [
        (b"d", "modified", "file"),
        (b"d/e", "deleted", "dir"),
        (b"d/e/f", "deleted", "dir"),
        (b"d/e/f/deep", "deleted", "file"),
        (b"d/e/one", "deleted", "file"),
        (b"d/two", "deleted", "file"),
        (b"file", "modified", "dir"),
        (b"file/below", "added", "dir"),
    ]


def test_a_directory_put_back_as_it_was_is_no_change_but_is_read(chain: Chain) -> None:
    chain.lower(base)
    a = chain.now()
    with chain.mounted() as tree:
        shutil.copytree(tree / "d", tree / "copy", symlinks=True)
        os.setxattr(tree / "copy", "user.colour", b"red")
        shutil.rmtree(tree / "d")
        os.rename(tree / "copy", tree / "d")
        (tree / "d/e/one").unlink()
    assert found(a, chain.now()) == [(b"d/e/one", "deleted", "file")]


def make_whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def hides_and_shows(layer: Path) -> None:
    """A layer with every mark, also where the kernel itself would write none."""
    make_whiteout(layer / "of-nothing")
    make_whiteout(layer / "file")
    (layer / "d").mkdir()
    os.setxattr(layer / "d", "trusted.overlay.opaque", b"y")
    (layer / "d/two").write_text("another two")
    (layer / "covered").write_text("a file over a directory")
    os.setxattr(layer, "trusted.overlay.opaque", b"y")


def hides_by_attributes(layer: Path) -> None:
    """The whiteouts of kernel 6.7, which the directory's own mark keeps out of listings."""
    for directory, name in (("d", "two"), ("d/e", "one")):
        (layer / directory).mkdir()
        os.setxattr(layer / directory, "trusted.overlay.opaque", b"x")
        (layer / directory / name).touch()
        os.setxattr(layer / directory / name, "trusted.overlay.whiteout", b"")


def covers_again(layer: Path) -> None:
    """Directories over the files and whiteouts of the layer below."""
    for name in ("d/e", "covered/deep", "file", "of-nothing"):
        (layer / name).mkdir(parents=True)
        (layer / name / "later").touch()


HAND_MADE: dict[str, list[Act]] = {
    "every mark": [base, hides_and_shows],
    "every mark, covered": [base, hides_and_shows, covers_again],
    "every mark at the bottom": [hides_and_shows, covers_again, base],
    "marks by attributes": [base, hides_by_attributes],
    "marks by attributes, covered": [base, hides_by_attributes, covers_again],
}


@pytest.mark.parametrize("layers", HAND_MADE.values(), ids=HAND_MADE.keys())
def test_layers_made_by_hand_are_read_as_the_kernel_reads_them(
    chain: Chain, layers: list[Act]
) -> None:
    chain.lower(lambda layer: None)
    looks = []
    for fill in layers:
        chain.lower(fill)
        with chain.shown() as tree:
            looks.append((chain.now(), trees.snapshot(tree)))
        shutil.rmtree(chain.ground / f"empty{len(chain.layers)}")
    for a, before in looks:
        for b, after in looks:
            assert_judged(a, before, b, after)


def test_a_whiteout_where_nothing_is_hidden_is_nothing(chain: Chain) -> None:
    """The kernel lists such a name in a directory of one layer, and says ENOENT of it."""

    def stray(layer: Path) -> None:
        (layer / "d").mkdir()
        os.setxattr(layer / "d", "trusted.overlay.opaque", b"y")
        make_whiteout(layer / "d/stray device")
        (layer / "d/stray file").touch()
        os.setxattr(layer / "d/stray file", "trusted.overlay.whiteout", b"")

    chain.lower(base)
    a = chain.now()
    chain.lower(stray)
    with chain.shown() as tree:
        assert sorted(os.listdir(tree / "d")) == ["stray device", "stray file"]
        assert not (tree / "d/stray device").exists()
        assert not (tree / "d/stray file").exists()
    assert [row for row in found(a, chain.now()) if b"stray" in row[0]] == []


def test_an_attribute_of_a_nested_overlay_is_shown_and_so_is_its_change(chain: Chain) -> None:
    chain.lower(base)
    a = chain.now()
    with chain.mounted() as tree:
        os.setxattr(tree / "file", "trusted.overlay.opaque", b"y")
        assert os.getxattr(chain.layers[0] / "file", "trusted.overlay.overlay.opaque") == b"y"
    b = chain.now()
    with chain.mounted() as tree:
        (tree / "file").write_text("file")
        os.setxattr(tree / "file", "trusted.overlay.opaque", b"y")
    c = chain.now()
    with chain.mounted() as tree:
        os.setxattr(tree / "file", "trusted.overlay.opaque", b"n")
    assert found(a, b) == [(b"file", "modified", "file")]
    assert found(b, c) == []
    assert found(c, chain.now()) == [(b"file", "modified", "file")]


@pytest.mark.parametrize(
    ("option", "mark"), [("redirect_dir", "redirect"), ("metacopy", "metacopy")]
)
def test_a_layer_that_is_not_whole_by_itself_is_refused(
    chain: Chain, option: str, mark: str
) -> None:
    chain.lower(base)
    a = chain.now()
    with chain.mounted(f"index=off,{option}=on") as tree:
        os.rename(tree / "d", tree / "renamed")
        (tree / "file").chmod(0o600)
    with pytest.raises(Unsupported, match=f"trusted.overlay.{mark}"):
        list(diff(a, chain.now()))


def test_a_mount_upon_a_directory_of_a_layer_is_no_part_of_it(chain: Chain) -> None:
    chain.lower(base)
    a = chain.now()
    with chain.mounted() as tree:
        shutil.rmtree(tree / "d")
        shutil.rmtree(tree / "empty")
    point = chain.layers[1] / "empty"
    for source in (["-t", "tmpfs", "none"], ["--bind", str(chain.layers[1] / "d")]):
        subprocess.run(["mount", *source, str(point)], check=True)
        try:
            (point / "inside").touch()
            assert [path for path, _, _ in found(a, chain.now())].count(b"empty") == 1
            assert not [path for path, _, _ in found(a, chain.now()) if b"empty/" in path]
        finally:
            subprocess.run(["umount", point], check=True)


def test_a_mount_upon_a_directory_that_an_overlay_wrote_is_no_part_of_it(chain: Chain) -> None:
    chain.lower(base)
    with chain.mounted(OURS) as tree:
        (tree / "new/point").mkdir(parents=True)
    upper, bottom = chain.now_by_type()
    point = chain.layers[0] / "new/point"
    subprocess.run(["mount", "-t", "tmpfs", "none", str(point)], check=True)
    try:
        (point / "inside").touch()
        assert [path for path, _, _ in found([bottom], [upper, bottom])] == [b"new", b"new/point"]
    finally:
        subprocess.run(["umount", point], check=True)


NAMES = st.sampled_from(["a", "b", "a-"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
DATA = st.sampled_from(["", "1", "2", "33"])


def write(tree: Path, path: str, data: str) -> None:
    """Write a file; a FIFO without a reader is refused instead of waited for."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK
    with open(os.open(tree / path, flags, 0o644), "w") as file:
        file.write(data)


def remove(tree: Path, path: str) -> None:
    shutil.rmtree(tree / path) if (tree / path).is_dir() else (tree / path).unlink()


def rename(tree: Path, old: str, new: str) -> None:
    os.rename(tree / old, tree / new)


def move(tree: Path, old: str, new: str) -> None:
    shutil.move(tree / old, tree / new)


def link(tree: Path, old: str, new: str) -> None:
    os.link(tree / old, tree / new, follow_symlinks=False)


def chmod(tree: Path, path: str, mode: int) -> None:
    (tree / path).chmod(mode)


def attribute(tree: Path, path: str, name: str, data: str) -> None:
    os.setxattr(tree / path, name, data.encode())


def replace_by_fifo(tree: Path, path: str) -> None:
    remove(tree, path)
    os.mkfifo(tree / path)


def replace_by_empty_directory(tree: Path, path: str) -> None:
    remove(tree, path)
    (tree / path).mkdir()


def replace_by_directory(tree: Path, path: str, child: str) -> None:
    remove(tree, path)
    (tree / path / child).mkdir(parents=True)


ANYWHERE = PATHS | st.just(".")
OPERATIONS = st.one_of(
    st.tuples(st.just(write), PATHS, DATA),
    st.tuples(st.just(write), PATHS, DATA),
    st.tuples(st.just(lambda tree, path: (tree / path).mkdir()), PATHS),
    st.tuples(st.just(lambda tree, path: (tree / path).mkdir(parents=True)), PATHS),
    st.tuples(st.just(lambda tree, path, to: (tree / path).symlink_to(to)), PATHS, NAMES),
    st.tuples(st.just(remove), PATHS),
    st.tuples(st.just(replace_by_empty_directory), PATHS),
    st.tuples(st.just(replace_by_fifo), PATHS),
    st.tuples(st.just(replace_by_directory), PATHS, NAMES),
    st.tuples(st.just(rename), PATHS, PATHS),
    st.tuples(st.just(move), PATHS, PATHS),
    st.tuples(st.just(link), PATHS, PATHS),
    st.tuples(st.just(chmod), ANYWHERE, st.sampled_from([0o755, 0o644, 0o4711])),
    st.tuples(
        st.just(lambda tree, path, uid: os.chown(tree / path, uid, 0)), PATHS, NAMES.map(len)
    ),
    st.tuples(st.just(attribute), ANYWHERE, st.sampled_from(["user.x", "trusted.y"]), DATA),
    st.tuples(st.just(lambda tree, path: os.removexattr(tree / path, "user.x")), ANYWHERE),
    st.tuples(st.just(lambda tree, path: os.utime(tree / path, ns=(1, 1))), ANYWHERE),
)


def perform(tree: Path, operation: tuple[object, ...]) -> None:
    """Do one operation; the tree decides whether it can be done."""
    act, *arguments = operation
    assert callable(act)
    try:
        act(tree, *arguments)
    except (OSError, shutil.Error):
        return


ROUNDS = st.lists(st.lists(OPERATIONS, max_size=12), min_size=2, max_size=4)


@pytest.mark.slow
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rounds=ROUNDS)
def test_any_history_is_told_between_any_two_of_its_points(
    chain: Chain, rounds: list[list[tuple[object, ...]]]
) -> None:
    """The first point is the chain that the first round left, the last one is mounted."""
    history = Chain(chain.ground / "history")
    try:
        history.lower(base)
        looks: list[tuple[list[LayerTree], Tree]] = []
        for operations in rounds:
            with history.mounted() as tree:
                for operation in operations:
                    perform(tree, operation)
                looks.append((history.now(), trees.snapshot(tree)))
                for a, before in looks:
                    assert_judged(a, before, *looks[-1])
    finally:
        trees.remove(history.ground)


ODD = st.sampled_from(["a", "b", "a-", os.fsdecode(b"\xff")])
SPECIAL = st.sampled_from([stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
ODD_PATHS = st.lists(ODD, min_size=1, max_size=3).map("/".join)
FOREIGN = st.sampled_from(["opaque", "whiteout", "redirect", "metacopy"]).map(
    "trusted.overlay.{}".format
)


def make_special(tree: Path, path: str, kind: int, device: int) -> None:
    os.mknod(tree / path, kind | 0o600, device)


def make_below(tree: Path, path: str, child: str, data: str) -> None:
    (tree / path).mkdir(parents=True, exist_ok=True)
    write(tree, f"{path}/{child}", data)


def furnish(tree: Path) -> None:
    """Fill directories, so that there is something to remove."""
    for path in ("a", "b", "a/b", "a/a-", "b/a"):
        for child in ("file", os.fsdecode(b"\xff")):
            make_below(tree, path, child, "1")


ODD_OPERATIONS = st.one_of(
    OPERATIONS,
    st.tuples(st.just(make_special), ODD_PATHS, SPECIAL, st.sampled_from([0, NULL])),
    st.tuples(st.just(make_below), ODD_PATHS, ODD, DATA),
    st.tuples(st.just(replace_by_directory), ODD_PATHS, ODD),
    st.tuples(st.just(remove), ODD_PATHS),
    st.tuples(st.just(attribute), ODD_PATHS, FOREIGN, st.sampled_from(["", "y", "x"])),
)


def rows(a: Sequence[LayerTree], b: Sequence[LayerTree]) -> list[tuple[object, ...]]:
    return [
        (row.change, row.old and row.old.path, row.new and row.new.path)
        for row in differences(a, b)
    ]


def chains(layers: list[LayerTree]) -> list[list[LayerTree]]:
    """Every point of the history of `layers`, and each without one layer that was changed since."""
    points = [layers[at:] for at in range(len(layers))]
    return points + [
        point[:out] + point[out + 1 :] for point in points for out in range(1, len(point))
    ]


@pytest.mark.slow
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rounds=st.lists(st.lists(ODD_OPERATIONS, max_size=12), min_size=2, max_size=3))
def test_types_tell_of_what_an_overlay_wrote_all_that_a_look_at_each_entry_does(
    chain: Chain, rounds: list[list[tuple[object, ...]]]
) -> None:
    """Left out, a layer uncovers whiteouts of nothing, as a directory by reference may."""
    history = Chain(chain.ground / "history")
    try:
        history.lower(base)
        with history.mounted(OURS) as tree:
            furnish(tree)
        for operations in rounds:
            with history.mounted(OURS) as tree:
                for operation in operations:
                    perform(tree, operation)
        by_look, by_type = chains(history.now()), chains(history.now_by_type())
        for a, typed_a in zip(by_look, by_type, strict=True):
            for b, typed_b in zip(by_look, by_type, strict=True):
                assert rows(a, b) == rows(typed_a, typed_b)
    finally:
        trees.remove(history.ground)


def test_a_device_of_nothing_below_a_directory_of_one_layer_is_no_change(chain: Chain) -> None:
    """The layer that held the deleted file is gone from the chain."""
    chain.lower(base)
    chain.lower(lambda layer: (layer / "new/deep").mkdir(parents=True))
    for name in ("new/file", "new/deep/file"):
        (chain.layers[0] / name).touch()
    with chain.mounted(OURS) as tree:
        (tree / "new/file").unlink()
        (tree / "new/deep/file").unlink()
        os.mknod(tree / "new/deep/null", stat.S_IFCHR, NULL)
        os.mkfifo(tree / "new/deep/pipe")
        listen(tree / "new/deep/socket")
        (tree / "new/deep/link").symlink_to("..")
        (tree / "new/deep-er").touch()
    upper, _, bottom = chain.now_by_type()
    assert stat.S_ISCHR(os.lstat(upper.path + b"/new/file").st_mode)
    assert found([bottom], [upper, bottom]) == [
        (b"new", "added", "dir"),
        (b"new/deep", "added", "dir"),
        (b"new/deep-er", "added", "file"),
        (b"new/deep/link", "added", "symlink"),
        (b"new/deep/null", "added", "other"),
        (b"new/deep/pipe", "added", "other"),
        (b"new/deep/socket", "added", "other"),
    ]
