"""What following costs: time until `ready`, a barrier, memory, and the processor in idleness.

By the directories in the upper, which are followed, and in the layer below, which cost nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import memory, watchers
from tests.bench.figure import Figure, Medians
from tests.bench.session import Session
from tests.bench.timing import interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

_WATCHFILES = "import sys, watchfiles\nfor _ in watchfiles.watch(sys.argv[1]): pass"


def readiness(place: Path, directories: int, rounds: int) -> Medians:
    """Time `envstack watch` until its `ready`, and `envstack sync`, as whole processes."""
    with Session(place / "envstack") as session:
        projects = _projects(session, place, directories)
        subjects: dict[str, Callable[[], float]] = {}
        for name, project in projects.items():
            subjects[f"{name}: ready"] = _subject(_ready, session, project)
            subjects[f"{name}: sync"] = _subject(_sync, session, project)
            subjects[f"{name}: sync, daemon anew"] = _subject(_sync_anew, session, project)
        return interleaved(subjects, rounds)


def size(place: Path, directories: int, _rounds: int) -> Medians:
    """Return MiB of a daemon that follows one environment and has one subscriber; once."""
    found = {}
    for name in ("nothing", "in the lower", "in the upper"):
        with Session(place / name.replace(" ", "-")) as session:
            project = _make(session, place / "layers", name, directories)
            with _watch(session, project):
                session.ask(project, "sync")
                daemon = session.ask(project, "daemon", "status")["pid"]
                found[f"{name}, RSS"] = memory.size(daemon, "Rss")
    return found


def idleness(place: Path, environments: int, seconds: int) -> Medians:
    """Return the processor time of the daemon, in percent of a core, while nothing happens."""
    with Session(place / "envstack") as session, ExitStack() as subscribers:
        projects = [session.project(f"project{number}") for number in range(environments)]
        for project in projects:
            session.up(project)
            session.ask(project, "sync")
        daemon = session.ask(projects[0], "daemon", "status")["pid"]
        found = {"watchfiles as shipped, one directory": _watchfiles(place, seconds)}
        found["envstack, nobody watches"] = _busy(daemon, seconds)
        for project in projects:
            subscribers.enter_context(_watch(session, project))
        found["envstack, a watch on each"] = _busy(daemon, seconds)
        return found


def _projects(session: Session, place: Path, directories: int) -> Mapping[str, Path]:
    return {
        name: _make(session, place / "layers", name, directories)
        for name in ("nothing", "in the lower", "in the upper")
    }


def _make(session: Session, place: Path, name: str, directories: int) -> Path:
    """Bring an environment up that has so many directories where `name` says."""
    lower = place / name
    lower.mkdir(parents=True)
    layers = [{"name": "layer", "dir": str(lower)}]
    if name == "in the lower":
        _fill(lower, directories)
    project = session.project(name.replace(" ", "-"), layers)
    merged = session.up(project)
    if name == "in the upper":
        _fill(merged, directories)
    return project


def _fill(top: Path, directories: int) -> None:
    """Make so many directories, a hundred in each of those above them."""
    for number in range(directories):
        (top / str(number // 10_000) / str(number // 100) / str(number)).mkdir(parents=True)


def _subject(
    measure: Callable[[Session, Path], float], session: Session, project: Path
) -> Callable[[], float]:
    return lambda: measure(session, project)


def _watch(session: Session, project: Path) -> AbstractContextManager[watchers.Watcher]:
    return watchers.envstack(session.command(project, "watch", "--json"), session.environ)


def _ready(session: Session, project: Path) -> float:
    began = time.perf_counter()
    with _watch(session, project):
        return time.perf_counter() - began


def _sync_anew(session: Session, project: Path) -> float:
    """Time the barrier of a daemon that has just begun to watch."""
    session.ask(project, "daemon", "stop")
    session.up(project)
    return _sync(session, project)


def _sync(session: Session, project: Path) -> float:
    return session.time(project, "sync")


def _watchfiles(place: Path, seconds: int) -> float:
    watched = place / "watched"
    watched.mkdir()
    with subprocess.Popen([sys.executable, "-c", _WATCHFILES, str(watched)]) as process:
        try:
            return _busy(process.pid, seconds)
        finally:
            process.terminate()


def _busy(pid: int, seconds: int) -> float:
    """Return percent of a core that a process and its descendants use, over so many seconds.

    After a second for what was still going on.
    """
    time.sleep(1.0)
    before = _nanoseconds(pid)
    time.sleep(seconds)
    return (_nanoseconds(pid) - before) / 1e9 / seconds * 100


def _nanoseconds(pid: int) -> int:
    """Return the time on a processor (schedstat, Linux: scheduler/sched-stats), of all threads."""
    tasks = list(Path("/proc", str(pid), "task").iterdir())
    own = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    return own + sum(_nanoseconds(int(child)) for child in children)


READY = Figure(
    title="Until `ready`, and a barrier, by directories (aim: those in the lower cost nothing)",
    measure=readiness,
    counted="directories",
    sizes={1: 5, 10_000: 5, 100_000: 3},
    quick={1: 1},
)
MEMORY = Figure(
    title="Memory of a daemon that follows, by directories (aim: the lower ones cost nothing)",
    measure=size,
    counted="directories",
    sizes={1: 1, 10_000: 1, 100_000: 1},
    quick={1: 1},
    unit="MiB",
)
IDLE = Figure(
    title="Processor time while nothing happens (aim: under 0.5 % with ten environments)",
    measure=idleness,
    counted="up",
    sizes={1: 20, 10: 20},
    quick={1: 1},
    unit="% core",
)
