"""Processes that are made to stand still by SIGSTOP, where no cgroup can be had.

Owns how they are found: by a mark in their environment, which children inherit, and as descendants
of those that have it. Whoever stops a process writes it down first, so that another one can let it
go on. A parent sees that its child was stopped; so the one that waits for the first of them must
take no notice of SIGSTOP.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envstack.linux import proc

if TYPE_CHECKING:
    from collections.abc import Iterator

KIND = b"stopped"

VARIABLE = b"ENVSTACK_GROUP"
"""The variable that marks them; its value is the name of their group."""

_PAUSE = 0.0005
_STILL = b"TtZXx"
"""The states of proc_pid_stat(5) in which nothing is done."""


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    state: bytes
    started: bytes
    """In ticks since the boot: with the pid, it names one process for good."""


@dataclass(slots=True)
class Marked:
    """The processes of the group `name`; who is stopped is written to the file `record`."""

    name: bytes
    record: bytes
    _stopped: dict[int, _Process] = field(default_factory=dict)

    @property
    def order(self) -> bytes:
        """How a guard is told of it."""
        return KIND + b" " + self.record

    def freeze(self) -> None:
        """Stop them, again and again until there is none that was not: they may fork meanwhile."""
        while fresh := [each for each in self._running() if each.pid not in self._stopped]:
            self._stopped |= {each.pid: each for each in fresh}
            _write(self.record, self._stopped)
            for each in fresh:
                _signal(each.pid, signal.SIGSTOP)

    def stands_still(self, deadline: float) -> bool:
        """Wait until each of them is stopped; False where that is not so by the deadline."""
        while any(process.pid in self._stopped for process in self._running()):
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
        return True

    def thaw(self) -> None:
        """Let those go on that were stopped."""
        self._stopped.clear()
        let_go(self.record)

    def is_empty(self) -> bool:
        """Tell whether there is no such process."""
        return not any(True for _ in self._running())

    def _running(self) -> Iterator[_Process]:
        """Yield those that run: who was stopped by somebody else is left as he is."""
        table = dict(_table())
        marked = {pid for pid in table if _has_mark(pid, self.name)}
        for process in table.values():
            is_ours = not marked.isdisjoint(_ancestry(process, table))
            if is_ours and process.state not in _STILL:
                yield process


def leave() -> None:
    """Have what this process starts be in no group, unlike itself perhaps."""
    os.environ.pop(VARIABLE.decode(), None)


def let_go(record: bytes) -> None:
    """Let everybody go on who is written down in a record, and delete it; none is no error."""
    try:
        lines = proc.read(record).split(b"\n")[:-1]
    except FileNotFoundError:
        return
    for line in reversed(lines):  # children first: a parent that wakes finds none stopped
        pid, _, started = line.partition(b" ")
        with suppress(*proc.GONE):
            if _look(int(pid)).started == started:
                _signal(int(pid), signal.SIGCONT)
    with suppress(FileNotFoundError):
        os.unlink(record)


def _write(record: bytes, stopped: dict[int, _Process]) -> None:
    """Write a record as a whole, parents before their children as far as that is known."""
    rows = sorted(stopped.values(), key=lambda each: int(each.started))
    partial = record + b".new"
    with open(partial, "wb") as file:
        file.writelines(b"%d %s\n" % (each.pid, each.started) for each in rows)
    os.replace(partial, record)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _table() -> Iterator[tuple[int, _Process]]:
    for pid in proc.processes():
        with suppress(*proc.GONE):
            yield pid, _look(pid)


def _look(pid: int) -> _Process:
    fields = proc.read(b"/proc/%d/stat" % pid).rpartition(b") ")[2].split()
    return _Process(pid, int(fields[1]), fields[0], fields[19])


def _has_mark(pid: int, name: bytes) -> bool:
    with suppress(*proc.GONE):
        return VARIABLE + b"=" + name in proc.read(b"/proc/%d/environ" % pid).split(b"\0")
    return False


def _ancestry(process: _Process, table: dict[int, _Process]) -> set[int]:
    """Return the ids of a process and of all above it, up to this one: that is nobody's."""
    line: set[int] = set()
    at: _Process | None = process
    while at is not None and at.pid not in line and at.pid != os.getpid():
        line.add(at.pid)
        at = table.get(at.parent)
    return line
