"""The start of a process and one question to the daemon: `envstack status` against typer alone."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import peers, timing
from tests.bench.figure import Figure, Medians, missing
from tests.bench.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TRIVIAL = '''\
import typer


def greet(name: str = "world", loud: bool = False) -> None:
    """Say hello."""
    print(f"Hello {name}{'!' if loud else '.'}")


def main() -> None:
    typer.run(greet)
'''

_REPOSITORY = Path(__file__).parents[2]


def measure(place: Path, environments: int, rounds: int) -> Medians:
    """Time whole processes, with this many environments up."""
    (place / "trivial.py").write_text(_TRIVIAL)
    with ExitStack() as stack:
        session = stack.enter_context(Session(place / "envstack"))
        projects = [session.project(f"project{number}") for number in range(environments)]
        for project in projects:
            session.up(project)
        environ = {**session.environ, "PYTHONPATH": f"{_REPOSITORY}:{place}"}
        status = _script("envstack.cli", "-C", str(projects[0]), "status")
        subjects = {
            "a trivial typer command": _subject(_script("trivial"), environ),
            "Python alone": _subject([sys.executable, "-c", "pass"], environ),
            "envstack --version": _subject(_script("envstack.cli", "--version"), environ),
            "envstack status": _subject(status, environ),
            "envstack status --json": _subject([*status, "--json"], environ),
        }
        if not missing(peers.PROGRAMS):
            containers = stack.enter_context(peers.containers(place / "peers"))
            subjects["podman ps"] = _subject(["podman", "ps"], containers.environ)
        return timing.interleaved(subjects, rounds)


def _script(module: str, *words: str) -> list[str]:
    """Return the command line of `main` in `module`, started as pip's console scripts do it."""
    start = f"import sys; from {module} import main; sys.exit(main())"
    return [sys.executable, "-c", start, *words]


def _subject(command: list[str], environ: Mapping[str, str]) -> Callable[[], float]:
    """Return what times the command; it ran once before, so that its files are in the cache."""
    timing.output(command, environ)
    return lambda: timing.program(command, environ)


FIGURE = Figure(
    title="A question as a whole process (aim: 1.3 times the trivial typer command)",
    measure=measure,
    counted="up",
    sizes={1: 20, 10: 20},
    quick={1: 2},
    optional=peers.PROGRAMS,
)
