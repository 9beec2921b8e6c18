"""Processes that stand still: all of them, for as long as is asked, and never for longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import pytest

from envstack.environment.groups import Groups
from envstack.linux import cgroup, stopping
from envstack.linux.cgroup import Cgroup
from envstack.linux.freezer import frozen
from envstack.linux.launcher import Launcher
from envstack.linux.stopping import Marked
from envstack.model import EnvId
from tests.support import waiting
from tests.support.freezing import KINDS, allow_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envstack.linux.freezer import Group

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
WITHIN = 20.0

_COUNTER = """
import ctypes, mmap, os, signal, sys, time
with open(sys.argv[1], "r+b") as file:
    count = mmap.mmap(file.fileno(), 8)
if len(sys.argv) > 2:
    open(sys.argv[2], "w").write("0")
for _ in range(int(os.environ["CHILDREN"])):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        os.setsid()
        break
own = 0
while True:
    own += 1
    count[:] = own.to_bytes(8, "little")
    time.sleep(0.0001)
"""
"""Counts in memory that everybody sees, after it has joined the group that it is told. Its children
have sessions of their own, and end with it."""

_FORKS = """
import os, sys
if len(sys.argv) > 1:
    open(sys.argv[1], "w").write("0")
print("begun", flush=True)
while True:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
"""

_KEEPER = """
import os, sys, time
from envstack.linux.cgroup import Cgroup
from envstack.linux.freezer import frozen
from envstack.linux.launcher import Launcher
from envstack.linux.stopping import Marked
kind, one, two = (os.fsencode(word) for word in sys.argv[1:])
group = Marked(one, two) if kind == b"stopped" else Cgroup(kind, one)
with Launcher() as launcher, frozen([group], launcher) as held:
    print(held.is_whole(), launcher.pid, flush=True)
    time.sleep(1000)
"""
"""Has a group stand still until it is killed."""


@dataclass
class Way:
    """A group of one kind, and how processes come into it."""

    kind: bytes
    group: Cgroup | Marked
    directory: Path
    _stack: ExitStack = field(default_factory=ExitStack)

    def counter(self, children: int = 0) -> Counter:
        """Start a process in the group that counts, with children that do so as well."""
        file = self.directory / token_hex(4)
        file.write_bytes(bytes(8))
        self.start(_COUNTER, str(file), CHILDREN=str(children))
        counter = Counter(file)
        counter.runs()
        return counter

    def start(self, code: str, *words: str, **environ: str) -> subprocess.Popen[bytes]:
        mark = {stopping.VARIABLE.decode(): "group"} if isinstance(self.group, Marked) else {}
        joining = [os.fsdecode(self.group.entrance)] if isinstance(self.group, Cgroup) else []
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words, *joining],
            env={**os.environ, **mark, **environ},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._stack.callback(process.communicate)
        self._stack.callback(process.kill)
        return process

    def words(self) -> list[str]:
        """Return how a keeper is told of the group."""
        if isinstance(self.group, Marked):
            return ["stopped", "group", os.fsdecode(self.group.record)]
        return [os.fsdecode(word) for word in (self.kind, self.group.path, b"")]

    def close(self) -> None:
        """End everybody in the group."""
        self.group.thaw()
        self._stack.close()
        waiting.until(self.group.is_empty, "an empty group")


@dataclass(frozen=True)
class Counter:
    """What a process counts."""

    file: Path

    def value(self) -> bytes:
        return self.file.read_bytes()

    def runs(self, within: float = WITHIN) -> None:
        """Wait until it goes on."""
        before = self.value()
        waiting.until(lambda: self.value() != before, "a process that runs", within)

    def stands_still(self) -> bool:
        """Tell whether nothing is counted for many times as long as a count takes."""
        before = self.value()
        time.sleep(0.02)
        return self.value() == before


@pytest.fixture(params=KINDS, ids=bytes.decode)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Each way to have processes stand still; groups are made in that way alone."""
    return allow_only(request.param, monkeypatch)


@pytest.fixture
def way(kind: bytes, directory: Callable[[], Path]) -> Iterator[Way]:
    """A group that nobody is in."""
    where, family = directory(), token_hex(8).encode()
    group = cgroup.make(family, b"group") or Marked(b"group", os.fsencode(where / "record"))
    made = Way(kind, group, where)
    try:
        yield made
    finally:
        made.close()
        if isinstance(group, Cgroup):
            group.remove()
            cgroup.forget(family)
    assert list(cgroup.find(family)) == []
    assert not (where / "record").exists()


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with Launcher() as started:
        yield started


def test_all_stand_still_while_it_lasts_and_go_on_afterwards(way: Way, launcher: Launcher) -> None:
    counters = [way.counter(), way.counter(children=3)]
    for _ in range(3):
        with frozen([way.group], launcher) as held:
            assert held.is_whole()
            assert all(counter.stands_still() for counter in counters)
        for counter in counters:
            counter.runs()


def test_who_forks_all_the_time_stands_still_as_well(way: Way, launcher: Launcher) -> None:
    forking = way.start(_FORKS)
    assert forking.stdout is not None
    assert forking.stdout.readline() == b"begun\n"
    with frozen([way.group], launcher) as held:
        assert held.is_whole()


def test_nobody_is_no_whole(way: Way, launcher: Launcher, tmp_path: Path) -> None:
    groups = Groups(os.fsencode(tmp_path), launcher)
    with groups.freeze(EnvId("0" * 16)) as whole:
        assert not whole


def test_they_go_on_within_a_second_when_their_keeper_is_killed(way: Way) -> None:
    counter = way.counter(children=2)
    with _keeper(way) as keeper:
        assert _said(keeper)[0] == "True"
        assert counter.stands_still()
        keeper.kill()
        counter.runs(within=1.0)


def test_a_daemon_that_starts_thaws_what_keeper_and_guard_left_frozen(
    kind: bytes, home: Path, launcher: Launcher
) -> None:
    """Both were killed at once."""
    home.mkdir()
    groups = Groups(os.fsencode(home), launcher)
    env = EnvId("abcd" * 4)
    group = groups.enter(env) or Marked(b"group", os.fsencode(home / f"stopped-{env}"))
    own = Way(kind, group, home)
    try:
        counter = own.counter(children=2)
        with _keeper(own) as keeper:
            whole, guard = _said(keeper)
            os.kill(int(guard), signal.SIGSTOP)
            keeper.kill()
            os.kill(int(guard), signal.SIGKILL)
            assert whole == "True"
            assert counter.stands_still()
            groups.recover()
            counter.runs(within=1.0)
    finally:
        own.close()
    groups.clear(env)
    assert list(cgroup.find(groups._family)) == []
    assert not list(home.glob("stopped*"))


def _keeper(way: Way) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _KEEPER, *way.words()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )


def _said(keeper: subprocess.Popen[bytes]) -> list[str]:
    assert keeper.stdout is not None
    return keeper.stdout.readline().decode().split()


def test_who_was_stopped_by_somebody_else_stays_so(launcher: Launcher, tmp_path: Path) -> None:
    with ExitStack() as stack:
        way = Way(stopping.KIND, Marked(b"group", os.fsencode(tmp_path / "record")), tmp_path)
        stack.callback(way.close)
        process = way.start("import time; print(flush=True); time.sleep(1000)")
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        waiting.until(lambda: _state(process.pid) == "T", "a stopped process")
        with frozen([way.group], launcher):
            pass
        assert _state(process.pid) == "T"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@dataclass
class FakeGroup:
    """Tells what is done with it, and stands still or not."""

    said: list[str]
    obeys: bool = True
    order: bytes = b"order"

    def freeze(self) -> None:
        self.said.append("freeze")

    def stands_still(self, deadline: float) -> bool:
        return self.obeys

    def thaw(self) -> None:
        self.said.append("thaw")

    def hold(self, order: bytes) -> None:
        self.said.append("hold")

    def free(self, order: bytes) -> None:
        self.said.append("free")


def test_the_guard_knows_before_anybody_is_frozen_and_until_all_are_thawed() -> None:
    said: list[str] = []
    group = FakeGroup(said)
    with frozen([group], group) as held:
        assert held.is_whole()
        assert said == ["hold", "freeze"]
    assert said == ["hold", "freeze", "thaw", "free"]


def test_where_one_cannot_be_frozen_all_go_on_at_once() -> None:
    said: list[str] = []
    groups: list[Group] = [FakeGroup(said), FakeGroup(said, obeys=False)]
    with frozen(groups, FakeGroup(said)) as held:
        assert not held.is_whole()
        assert said == ["hold", "freeze", "hold", "freeze", "thaw", "free", "thaw", "free"]


def test_without_a_guard_nobody_is_frozen(way: Way) -> None:
    counter = way.counter()
    with Launcher() as launcher:
        waiting.kill(launcher.pid, signal.SIGKILL, "the launcher")
        with frozen([way.group], launcher) as held:
            assert not held.is_whole()
            counter.runs()
