"""Memory of the daemon and of the processes that it keeps, by the environments that are up.

RSS is all that is resident; PSS counts a page that several processes share in parts
(proc_pid_smaps(5)). Many files are a thousand for each environment, all in one of them. The
reference is a Python process that does nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bench import material
from tests.bench.figure import Figure, Medians
from tests.bench.session import Session

_REPOSITORY = Path(__file__).parents[2]
_CHECKPOINTS = 5
_FILES = 1000


def measure(place: Path, environments: int, _rounds: int) -> Medians:
    """Return MiB; once, because nothing about it is a matter of chance."""
    with Session(place / "envstack") as session:
        projects = [session.project(f"project{number}") for number in range(environments)]
        trees = {project: session.up(project) for project in projects}
        daemon = session.ask(projects[0], "daemon", "status")["pid"]
        found = {
            "Python alone, RSS": _idle("pass"),
            "the daemon's modules imported, RSS": _idle("import envstack.daemon.service"),
            "all up, RSS": size(daemon, "Rss"),
            "all up, PSS": size(daemon, "Pss"),
        }
        for project, merged in trees.items():
            for _ in range(_CHECKPOINTS):
                material.fill(merged, 1)
                session.ask(project, "checkpoint")
            session.settle(project)
        found[f"{_CHECKPOINTS} checkpoints in each, RSS"] = size(daemon, "Rss")
        material.fill(trees[projects[0]], _FILES * environments)
        session.ask(projects[0], "diff")
        found["then a diff of many files, RSS"] = size(daemon, "Rss")
        session.ask(projects[0], "checkpoint")
        session.settle(projects[0])
        found["and a checkpoint of them, RSS"] = size(daemon, "Rss")
        found["at the end, PSS"] = size(daemon, "Pss")
        return found


def _idle(code: str) -> float:
    """Return the size of a Python process that has run `code` and waits."""
    command = [sys.executable, "-c", f"{code}; print(flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=_REPOSITORY) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        found = size(process.pid, "Rss")
        process.stdin.write(b"\n")
        process.stdin.flush()
    return found


def size(pid: int, field: str) -> float:
    """Return MiB of a process and all its descendants, by a field of smaps_rollup."""
    proc = Path("/proc", str(pid))
    lines = proc.joinpath("smaps_rollup").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    children = [pid for task in proc.glob("task/*/children") for pid in task.read_text().split()]
    return own / 1024 + sum(size(int(child), field) for child in children)


FIGURE = Figure(
    title="Memory of the daemon (aim: under 60 MiB with ten environments)",
    measure=measure,
    counted="up",
    sizes={1: 1, 10: 1},
    quick={1: 1},
    unit="MiB",
)
