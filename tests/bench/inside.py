"""Finding who is inside a merged tree, among many processes: against reading where each stands."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from envstack.linux.holders import find_holder, find_holders
from envstack.linux.mountinfo import read_mounts, topmost_at
from tests.bench.figure import Figure, Medians
from tests.bench.session import Session
from tests.bench.timing import interleaved, timed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_INSIDE = 10


def measure(place: Path, processes: int, rounds: int) -> Medians:
    """Time the scan with so many processes elsewhere, then with some of them inside."""
    with ExitStack() as stack:
        session = stack.enter_context(Session(place / "envstack"))
        project = session.project("project")
        merged = session.up(project)
        ignore = frozenset({session.ask(project, "daemon", "status")["pid"]})
        mount = topmost_at(read_mounts(), os.fsencode(merged))
        assert mount is not None
        for _ in range(processes):
            _start(stack, place)
        found = partial(find_holders, mount, ignore=ignore)
        subjects: dict[str, Callable[[], float]] = {
            "cwd, root and descriptors of all": partial(timed, _read_all),
            "holders, nobody inside": partial(timed, found),
            "is anybody inside": partial(timed, partial(find_holder, mount, ignore=ignore)),
        }
        medians = interleaved(subjects, rounds)
        assert found() == ()
        inside = stack.enter_context(ExitStack())
        for _ in range(_INSIDE):
            _start(inside, merged)
        some = {f"holders, {_INSIDE} inside": partial(timed, found)}
        medians |= interleaved(some, rounds)
        assert len(found()) == _INSIDE
        inside.close()
        return medians


def _start(stack: ExitStack, directory: Path) -> None:
    process = subprocess.Popen(["sleep", "infinity"], cwd=directory)
    stack.callback(process.wait)
    stack.callback(process.kill)


def _read_all() -> None:
    """Read what tells where a process stands, for every process, and nothing besides."""
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            for name in ("cwd", "root"):
                os.stat(f"/proc/{pid}/{name}")
            for number in os.listdir(f"/proc/{pid}/fd"):
                os.stat(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue  # it has ended, or has no such thing: a kernel thread


FIGURE = Figure(
    title="Who is inside (aim: tens of milliseconds)",
    measure=measure,
    counted="processes",
    sizes={100: 15, 2_000: 9},
    quick={20: 1},
)
