"""A Hypothesis state machine that lives in a merged tree and on a plain directory at once.

Every step is taken in both, must end alike in both, and leaves both the same in full.
"""

from __future__ import annotations

import base64
import mmap
import os
import subprocess
from typing import TYPE_CHECKING, Any, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support import trees
from tests.support.edits import chown, link, mkdir, write
from tests.support.twins import Twins

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hypothesis import settings

    from tests.support.edits import Edit
    from tests.support.judge import Judge
    from tests.support.trees import Tree
    from tests.support.twins import Operation

Json = dict[str, Any]


class Subject(Protocol):
    """What the machine drives: a `Sandbox`, or something that must be found to be wrong."""

    @property
    def merged(self) -> Path: ...
    def up(self) -> Json: ...
    def down(self) -> Json: ...
    def relay(self) -> Json: ...
    def directory(self, layer: str) -> Path: ...
    def checkpoint(self, message: str = "") -> Json: ...
    def rollback(self, rev: str = "@", *, discard: bool = False) -> Json: ...
    def log(self) -> list[Json]: ...
    def diff(self, a: str | None = None, b: str | None = None) -> list[Json]: ...
    def kill_daemon(self) -> None: ...
    def power_off(self) -> None: ...
    def close(self) -> None: ...


LAYERS: dict[str, list[Edit]] = {
    "bottom": [
        write("shared", "from the bottom\n"),
        write("covered", "never seen\n"),
        mkdir("lib"),
        mkdir("lib/deep", 0o700),
        write("lib/deep/file", "deep\n"),
        write("lib/one", "of three names\n"),
        link("lib/one", "lib/two"),
        link("lib/one", "three"),
        chown("lib/deep", 1, 1),
        mkdir("below"),
        write("below/one", "one\n"),
    ],
    "top": [
        write("covered", "covers\n", 0o755),
        mkdir("more"),
        write("more/file", "on top\n"),
        lambda root: os.symlink("../covered", root / "more" / "symlink"),
        lambda root: os.mkfifo(root / "fifo"),
        lambda root: os.setxattr(root / "covered", "user.a", b"top"),
        lambda root: os.setxattr(root / "more", "user.a", b"top"),
    ],
}
"""The stack under every run: a file that is covered, hard links, odd kinds, owners, xattrs.

What is in `below` changes below the mount, and there alone: so it is known what any chain shows.
"""

NAMES = st.sampled_from(
    [
        *(b"a", b"b", b"c", b"lib", b"more", b"shared", b"covered"),
        *(b"new\nline", b"quo'te\"d", b"co:lon,comma\\slash", b"\xff\xfe\x80", b"n" * 255),
        *(b" ", b"-rf", b"%s$HOME*", b".hidden", "gru\u0308n".encode(), b".wh.a", b".wh..wh..opq"),
    ]
)
CONTENTS = st.binary(max_size=12) | st.sampled_from([b"from the bottom\n", b"x" * 5000])
MODES = st.sampled_from([0o644, 0o600, 0o755, 0o4755, 0o2711, 0o1777, 0o000])
IDS = st.sampled_from([0, 1, 1000, 65534])
SIZES = st.sampled_from([0, 1, 7, 4096, 1 << 20])
KEYS = st.sampled_from(["user.a", "user.b"])
TARGETS = st.sampled_from([b"a", b"../lib", b"/nowhere", b"t" * 2000, b"\xff\n"])

LONGEST = 2000
"""No path is made longer, so that a name and the mount point still fit into PATH_MAX."""

LEAVES = ("file", "symlink", "fifo")


class Machine(RuleBasedStateMachine):
    """`subject` is not up yet; its stack is LAYERS, as is the base of `judge`."""

    def __init__(self, subject: Subject, judge: Judge) -> None:
        super().__init__()
        self.subject = subject
        self.judge = judge
        self.head = "base"
        self.tree: Tree = judge.now()
        self.twins = Twins(subject.merged, judge)
        subject.up()

    def teardown(self) -> None:
        self.subject.close()
        trees.remove(self.judge.place)

    @invariant()
    def the_merged_tree_is_the_plain_tree(self) -> None:
        self.tree = self.judge.now()
        found = trees.differences(trees.snapshot(self.subject.merged), self.tree)
        assert not found, "merged (left) is not plain (right):\n" + "\n".join(found)

    @rule(data=st.data(), content=CONTENTS, mode=MODES)
    def create(self, data: st.DataObject, content: bytes, mode: int) -> None:
        path = self._new(data)
        self.twins.do(_creation(path, content, mode), makes=[path])

    @precondition(lambda self: self._old("file"))
    @rule(data=st.data(), content=CONTENTS, how=st.sampled_from(["wb", "ab"]))
    def overwrite_or_append(self, data: st.DataObject, content: bytes, how: str) -> None:
        path = self._any(data, "file")

        def operation(root: bytes) -> None:
            with open(root + path, how) as file:
                file.write(content)

        self.twins.do(operation, changes=[path])

    @precondition(lambda self: self._old("file"))
    @rule(data=st.data(), size=SIZES)
    def truncate(self, data: st.DataObject, size: int) -> None:
        path = self._any(data, "file")
        self.twins.do(lambda root: os.truncate(root + path, size), changes=[path])

    @precondition(lambda self: self._old("file"))
    @rule(data=st.data(), content=CONTENTS, offset=SIZES)
    def write_behind_a_hole(self, data: st.DataObject, content: bytes, offset: int) -> None:
        path = self._any(data, "file")

        def operation(root: bytes) -> None:
            with open(root + path, "r+b") as file:
                file.seek(offset)
                file.write(content)

        self.twins.do(operation, changes=[path])

    @precondition(lambda self: self._old("file"))
    @rule(data=st.data())
    def write_through_a_mapping(self, data: st.DataObject) -> None:
        path = self._any(data, "file")

        def operation(root: bytes) -> None:
            with open(root + path, "r+b") as file:
                if os.fstat(file.fileno()).st_size:
                    with mmap.mmap(file.fileno(), 0) as mapping:
                        mapping[0] ^= 0xFF

        self.twins.do(operation, changes=[path])

    @rule(data=st.data(), points_to=TARGETS)
    def symlink(self, data: st.DataObject, points_to: bytes) -> None:
        path = self._new(data)
        self.twins.do(lambda root: os.symlink(points_to, root + path), makes=[path])

    @rule(data=st.data())
    def fifo(self, data: st.DataObject) -> None:
        path = self._new(data)
        self.twins.do(lambda root: os.mkfifo(root + path), makes=[path])

    @precondition(lambda self: self._old(*LEAVES))
    @rule(data=st.data())
    def hard_link(self, data: st.DataObject) -> None:
        old, new = self._any(data, *LEAVES), self._new(data)
        self.twins.do(
            lambda root: os.link(root + old, root + new, follow_symlinks=False), changes=[old]
        )

    @precondition(lambda self: self._old(*LEAVES))
    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        path = self._any(data, *LEAVES)
        self.twins.do(lambda root: os.unlink(root + path))

    @rule(data=st.data(), mode=MODES)
    def mkdir(self, data: st.DataObject, mode: int) -> None:
        path = self._new(data)
        self.twins.do(lambda root: os.mkdir(root + path, mode), makes=[path])

    @precondition(lambda self: self._old("dir"))
    @rule(data=st.data())
    def rmdir(self, data: st.DataObject) -> None:
        path = self._any(data, "dir")
        self.twins.do(lambda root: os.rmdir(root + path))

    @precondition(lambda self: self._old("dir", *LEAVES))
    @rule(data=st.data())
    def remove_tree(self, data: st.DataObject) -> None:
        path = self._any(data, "dir", *LEAVES)
        self.twins.do(lambda root: _remove(root + path))

    @precondition(lambda self: self._old("dir", *LEAVES))
    @rule(data=st.data(), content=CONTENTS)
    def replace_by_a_file(self, data: st.DataObject, content: bytes) -> None:
        path = self._any(data, "dir", *LEAVES)

        def operation(root: bytes) -> None:
            _remove(root + path)
            _creation(path, content, 0o644)(root)

        self.twins.do(operation, makes=[path])

    @precondition(lambda self: self._old("dir"))
    @rule(data=st.data(), name=NAMES)
    def make_a_directory_anew(self, data: st.DataObject, name: bytes) -> None:
        self._put_directory(self._any(data, "dir"), name)

    @precondition(lambda self: self._old(*LEAVES))
    @rule(data=st.data(), name=NAMES)
    def replace_by_a_directory(self, data: st.DataObject, name: bytes) -> None:
        self._put_directory(self._any(data, *LEAVES), name)

    @precondition(lambda self: self._old("dir", *LEAVES))
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        self.twins.rename(self._any(data, "dir", *LEAVES), self._new(data))

    @rule(mode=MODES, uid=IDS)
    def dress_the_root(self, mode: int, uid: int) -> None:
        def operation(root: bytes) -> None:
            os.chown(root, uid, 0)
            os.chmod(root, mode)

        self.twins.do(operation)

    @rule(data=st.data(), mode=MODES)
    def chmod(self, data: st.DataObject, mode: int) -> None:
        path = self._any(data, "root", "dir", "file", "fifo")
        self.twins.do(lambda root: os.chmod(root + path, mode), changes=[path])

    @rule(data=st.data(), uid=IDS, gid=IDS)
    def chown(self, data: st.DataObject, uid: int, gid: int) -> None:
        path = self._any(data, "root", "dir", *LEAVES)
        self.twins.do(lambda root: os.lchown(root + path, uid, gid), changes=[path])

    @rule(data=st.data(), key=KEYS, value=st.binary(max_size=12))
    def setxattr(self, data: st.DataObject, key: str, value: bytes) -> None:
        path = self._any(data, "root", "dir", *LEAVES)
        self.twins.do(
            lambda root: os.setxattr(root + path, key, value, follow_symlinks=False), changes=[path]
        )

    @rule(data=st.data(), key=KEYS)
    def removexattr(self, data: st.DataObject, key: str) -> None:
        path = self._any(data, "root", "dir", *LEAVES)
        self.twins.do(
            lambda root: os.removexattr(root + path, key, follow_symlinks=False), changes=[path]
        )

    @rule()
    def checkpoint(self) -> None:
        self._sealed(self.subject.checkpoint("a step of the model"))

    @rule(data=st.data(), discard=st.booleans())
    def rollback(self, data: st.DataObject, discard: bool) -> None:
        rev = data.draw(st.sampled_from(self.judge.revs), label="rev")
        self._rolled_back(rev, self.subject.rollback(rev, discard=discard), discard=discard)

    def _sealed(self, answer: Json) -> None:
        """Take note of a checkpoint."""
        assert answer["id"] not in self.judge.revs
        assert answer["parent"] == (None if self.head == "base" else self.head)
        self.judge.remember(answer["id"])
        self._stand_on(answer["id"])

    def _rolled_back(self, rev: str, answer: Json, *, discard: bool) -> None:
        """Take note of a rollback: what was not sealed is, unless it was to be discarded."""
        dirty = trees.changes(self.judge.at(self.head), self.tree)
        assert answer["to"] == rev
        saved = answer["saved"]
        if discard:
            assert saved is None
        else:
            assert saved is not None or not dirty, f"not saved: {dirty}"
        if saved is not None:
            assert saved not in self.judge.revs
            self.judge.remember(saved)
        self.judge.restore(rev)
        self._stand_on(rev)

    @rule(data=st.data())
    def diff(self, data: st.DataObject) -> None:
        revs = st.sampled_from([None, *self.judge.revs])
        a, b = data.draw(revs, label="a"), data.draw(revs, label="b")
        rows = [_change(row) for row in self.subject.diff(a, b)]
        before = self.judge.at(a or self.head)
        after = self.judge.at(b) if b else self.tree
        assert set(rows) == trees.changes(before, after)
        assert rows == sorted(set(rows)), "not in order, or the same twice"

    @rule()
    def log(self) -> None:
        rows = self.subject.log()
        assert [row["id"] for row in rows] == self.judge.revs[:0:-1]
        assert [row["id"] for row in rows if row["head"]] == [self.head] * (self.head != "base")

    @rule()
    def down_and_up(self) -> None:
        self.subject.down()
        assert not os.path.ismount(self.subject.merged)
        self.subject.up()

    @precondition(lambda self: not self._covers_its_layers)
    @rule(
        name=st.sampled_from(["one", "two", "three"]),
        content=st.none() | CONTENTS,
        anew=st.booleans(),
    )
    def change_a_layer_and_relay(self, name: str, content: bytes | None, anew: bool) -> None:
        """Replace a file of a layer, or the whole directory by a copy with another such file."""
        bottom = self.subject.directory("bottom")
        if anew:
            old = bottom.with_name("old")
            bottom.rename(old)
            trees.duplicate(old, bottom)
            trees.remove(old)
        edit = _replacement(f"below/{name}", content)
        edit(bottom)
        self.judge.edit_at_all_times(edit)
        saved = self.subject.relay()["saved"]
        if saved is not None:
            assert saved not in self.judge.revs
            self.judge.remember(saved)
            self._stand_on(saved)

    @rule(data=st.data(), content=CONTENTS, mode=MODES)
    def go_on_without_the_daemon(self, data: st.DataObject, content: bytes, mode: int) -> None:
        self.subject.kill_daemon()
        self.the_merged_tree_is_the_plain_tree()
        self.create(data, content, mode)
        self.the_merged_tree_is_the_plain_tree()
        self.subject.up()

    @rule()
    def lose_power(self) -> None:
        """What was up is mounted again by the next daemon; that no byte is lost, others show."""
        self.subject.power_off()
        self.subject.log()

    @property
    def _covers_its_layers(self) -> bool:
        """Whether no path leads to the layers while it is up: it is mounted over the project."""
        return self.subject.directory("bottom").is_relative_to(self.subject.merged)

    def _put_directory(self, path: bytes, name: bytes) -> None:
        """Put a new directory with one file in the place of what is at `path`."""
        inner = path + b"/" + name

        def operation(root: bytes) -> None:
            _remove(root + path)
            os.mkdir(root + path)
            _creation(inner, b"in a new directory", 0o644)(root)

        if len(inner) <= LONGEST:
            self.twins.do(operation, makes=[path])

    def _stand_on(self, rev: str) -> None:
        self.head = rev
        self.twins.sealed()

    def _old(self, *kinds: str) -> list[bytes]:
        """Return the paths of all that is of `kinds`; the root is a kind of its own."""
        found = [path for path, entry in self.tree.items() if entry.kind in kinds]
        below = sorted(
            b"/" + path for path in found if path.split(b"/")[0] not in (b"below", trees.ROOT)
        )
        return [b"/" + trees.ROOT, *below] if "root" in kinds else below

    def _any(self, data: st.DataObject, *kinds: str) -> bytes:
        """Draw a path of `kinds`, every other time one that a layer below has: there it is hard."""
        paths = self._old(*kinds)
        below = self.judge.at(self.head)
        sealed = [path for path in paths if path[1:] in below]
        choice = st.sampled_from(paths)
        return data.draw(st.sampled_from(sealed) | choice if sealed else choice, label="path")

    def _new(self, data: st.DataObject) -> bytes:
        """Draw a path in any directory, which may be taken."""
        name = data.draw(NAMES, label="name")
        parents = [path for path in [b"", *self._old("dir")] if len(path) + len(name) < LONGEST]
        return data.draw(st.sampled_from(parents), label="in") + b"/" + name


def explore(begin: Callable[[], tuple[Subject, Judge]], how: settings) -> None:
    """Run the machine many times, each on a subject and a judge that `begin` has just made."""

    class Run(Machine):
        def __init__(self) -> None:
            super().__init__(*begin())

    run_state_machine_as_test(Run, settings=how)


def _creation(path: bytes, content: bytes, mode: int) -> Operation:
    def operation(root: bytes) -> None:
        descriptor = os.open(root + path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with open(descriptor, "wb") as file:
            file.write(content)

    return operation


def _replacement(name: str, content: bytes | None) -> Edit:
    """Put a new file in the place of `name`, or nothing."""

    def edit(root: Path) -> None:
        if content is None:
            (root / name).unlink(missing_ok=True)
        else:
            (root / "below" / "fresh").write_bytes(content)
            (root / "below" / "fresh").rename(root / name)

    return edit


def _remove(path: bytes) -> None:
    subprocess.run(["rm", "-rf", "--", path], check=True)


def _change(row: Json) -> tuple[bytes, str, str]:
    exact = row.get("path_b64")
    path = base64.b64decode(exact) if exact else row["path"].encode()
    return path, row["change"], row["kind"]
