"""The state machine of `machine` with others inside, who come and go, and every mode at random.

Whoever is inside stays where he is; each point of history, mounted by itself, is the tree that it
was made of.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from envstack.client import RemoteError
from tests.support import chains, trees, waiting
from tests.support.machine import CONTENTS, Machine
from tests.support.twins import Twins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from hypothesis import settings

    from tests.support.judge import Judge
    from tests.support.sandbox import Sandbox
    from tests.support.twins import Operation

Json = dict[str, Any]

_MOST = 3
"""So many are inside at most."""


class Dweller:
    """A process that stands in a directory, and its view of that."""

    def __init__(self, directory: bytes) -> None:
        self._process = subprocess.Popen(["sleep", "infinity"], cwd=directory)
        self.stands = self._look()

    def leave(self) -> None:
        """End it."""
        waiting.kill(self._process.pid, signal.SIGKILL, "a dweller")
        self._process.wait()

    def check(self) -> None:
        """Fail unless it stands where it stood, in the same mount and the same directory."""
        assert self._look() == self.stands

    def _look(self) -> tuple[int, int]:
        info = os.stat(f"/proc/{self._process.pid}/cwd")
        return info.st_dev, info.st_ino


class UpperTwins(Twins):
    """Knows what is in the upper by looking there: not every seal leaves a fresh one."""

    def __init__(self, merged: Path, judge: Judge, home: Path) -> None:
        super().__init__(merged, judge)
        self._place = merged
        self._home = home
        self._upper = chains.upper(home, merged)
        self._below: set[bytes] = set()

    def do(
        self, operation: Operation, changes: Iterable[bytes] = (), makes: Iterable[bytes] = ()
    ) -> None:
        paths = list(changes)
        upper = chains.upper(self._home, self._place)
        if upper != self._upper:
            self._upper = upper
            self.sealed()
        self._below = {path for path in paths if not _lies_at(os.fsencode(upper) + path)}
        super().do(operation, paths, makes)

    def _copy_up(self, path: bytes) -> None:
        info = self._stat(path)
        if path not in self._below and not stat.S_ISDIR(info.st_mode):
            self._fresh.add(info.st_ino)
        super()._copy_up(path)


class Mixed(Machine):
    """`subject` is a sandbox, with its layers elsewhere than below its mount."""

    subject: Sandbox

    def __init__(self, subject: Sandbox, judge: Judge) -> None:
        super().__init__(subject, judge)
        self.twins = UpperTwins(subject.merged, judge, subject.home)
        self._inside: list[Dweller] = []

    def teardown(self) -> None:
        try:
            self._all_leave()
            for rev in self.judge.revs[1:]:
                self._check_by_itself(rev)
        finally:
            super().teardown()

    @invariant()
    def all_stand_where_they_stood(self) -> None:
        for dweller in self._inside:
            dweller.check()

    @precondition(lambda self: len(self._inside) < _MOST)
    @rule(data=st.data())
    def somebody_comes(self, data: st.DataObject) -> None:
        where = data.draw(st.sampled_from([b"", *self._old("dir")]), label="directory")
        self._inside.append(Dweller(os.fsencode(self.subject.merged) + where))

    @precondition(lambda self: self._inside)
    @rule(data=st.data())
    def somebody_leaves(self, data: st.DataObject) -> None:
        self._inside.pop(data.draw(st.integers(0, len(self._inside) - 1), label="who")).leave()

    @rule(mode=st.sampled_from(["auto", "rotate", "live"]))
    def checkpoint(self, mode: str) -> None:
        before = self._upper
        try:
            answer = self.subject.checkpoint("a step of the model", mode=mode)
        except RemoteError as error:
            self._refused(error, mode == "rotate")
            return
        assert answer["unstable"] == answer["stranded"] == []
        self._check_mode(answer, mode, "live", before)
        self._sealed(answer)
        self._check_by_itself(answer["id"])

    @rule(data=st.data(), discard=st.booleans(), mode=st.sampled_from(["auto", "swap", "in-place"]))
    def rollback(self, data: st.DataObject, discard: bool, mode: str) -> None:
        rev = data.draw(st.sampled_from(self.judge.revs), label="rev")
        before = self._upper
        try:
            answer = self.subject.rollback(rev, mode=mode, discard=discard)
        except RemoteError as error:
            self._refused(error, mode == "swap")
            return
        assert answer["late"] == answer["orphaned"] == answer["stranded"] == []
        assert answer["saved_meanwhile"] is None
        self._check_mode(answer, mode, "in-place", before)
        self._rolled_back(rev, answer, discard=discard)
        if answer["saved"] is not None:
            self._check_by_itself(answer["saved"])

    @rule()
    def down_and_up(self) -> None:
        self._all_leave()
        super().down_and_up()

    @precondition(lambda self: self._inside)
    @rule()
    def down_is_refused(self) -> None:
        with pytest.raises(RemoteError) as caught:
            self.subject.down()
        assert caught.value.kind == "held"

    @rule(
        name=st.sampled_from(["one", "two", "three"]),
        content=st.none() | CONTENTS,
        anew=st.booleans(),
    )
    def change_a_layer_and_relay(self, name: str, content: bytes | None, anew: bool) -> None:
        self._all_leave()
        super().change_a_layer_and_relay(name, content, anew)

    @rule()
    def lose_power(self) -> None:
        self._all_leave()
        super().lose_power()

    @property
    def _upper(self) -> Path:
        return chains.upper(self.subject.home, self.subject.merged)

    def _refused(self, error: RemoteError, is_exchange: bool) -> None:
        """Somebody is inside who would be stranded, and nothing has happened."""
        assert is_exchange
        assert self._inside
        assert error.kind == "held"

    def _check_mode(self, answer: Json, asked: str, through: str, before: Path) -> None:
        """`through` is the mode that leaves the mount as it is; `before`, which upper it had."""
        assert answer["reason"]
        assert answer["mode"] == asked or asked == "auto"
        if answer["mode"] == through or self._inside:
            assert self._upper == before
        is_nothing = not trees.changes(self.judge.at(self.head), self.tree)
        if asked == "auto" and self._inside and not is_nothing:
            assert answer["mode"] == through
        if asked == "auto" and not self._inside:
            assert answer["mode"] != through

    def _check_by_itself(self, rev: str) -> None:
        """Compare a point of history, mounted by itself, with the plain tree of then."""
        with chains.mounted(self.subject.home, rev) as tree:
            found = trees.differences(trees.snapshot(tree), self.judge.at(rev))
        assert not found, f"{rev} by itself (left) is not what was sealed:\n" + "\n".join(found)

    def _all_leave(self) -> None:
        while self._inside:
            self._inside.pop().leave()


def mix(begin: Callable[[], tuple[Sandbox, Judge]], how: settings) -> None:
    """Run the machine many times, each on a sandbox and a judge that `begin` has just made."""

    class Run(Mixed):
        def __init__(self) -> None:
            super().__init__(*begin())

    run_state_machine_as_test(Run, settings=how)


def _lies_at(path: bytes) -> bool:
    """Tell whether there is anything at a path, which may be too long to be one."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise
        return False
    return True
