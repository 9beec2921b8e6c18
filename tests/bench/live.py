"""Sealing and rolling back under running processes: what it costs them, and against what.

The upper holds many small files, of which some are changed before each round.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.bench import material, peers
from tests.bench.figure import Figure, Medians, missing
from tests.bench.session import PROGRAM, Session
from tests.bench.timing import interleaved, output, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_FEW, _MANY = 1_000, 10
"""One file in so many is changed, and one at the least."""

_FACTS = "%p %y %m %U %G %s %i %T@ %C@\\n"
"""What a live checkpoint has to know of every file."""

_LOOP = """
import signal, time
longest = 0
def tell(*_):
    global longest, last
    print(longest, flush=True)
    longest, last = 0, time.monotonic_ns()
last = time.monotonic_ns()
signal.signal(signal.SIGUSR1, tell)
print("begun", flush=True)
while True:
    now = time.monotonic_ns()
    if now - last > longest:
        longest = now - last
    last = now
"""


class Upper:
    """An environment with so many files in its upper, all of them sealed; `files` are their paths.

    `told` are the milliseconds that the daemon told of each kind of work.
    """

    def __init__(self, session: Session, count: int) -> None:
        self._session = session
        self.project = session.project("project")
        merged = session.up(self.project)
        self.path = material.fill(merged, count)
        self.files = sorted(path for path in self.path.rglob("*") if path.is_file())
        self.told: dict[str, list[float]] = {}
        self._rounds = 0
        self.checkpoint("first", 0)
        home = Path(session.environ["ENVSTACK_HOME"])
        upper = home / "layers" / session.ask(self.project, "status")["upper"] / "fs"
        self.sealed = upper / self.path.relative_to(merged)

    def change(self, files: Sequence[Path]) -> None:
        """Write other bytes into files."""
        self._rounds += 1
        for path in files:
            path.write_text(f"{self._rounds}")

    def checkpoint(self, name: str, changed: int) -> float:
        """Seal live after so many files were changed; return the seconds of the whole command."""
        return self._do(name, changed, "checkpoint", "--mode", "live")

    def roll_back(self, name: str, changed: int, *options: str) -> float:
        """Roll back in place what was changed; return the seconds of the whole command."""
        return self._do(name, changed, "rollback", "--mode", "in-place", *options)

    def roll_back_after_checkpoint(self, name: str, changed: int, *options: str) -> float:
        """Do the same where it is known what the upper held when the head was sealed."""
        self.checkpoint("before", 0)
        return self.roll_back(name, changed, *options)

    def _do(self, name: str, changed: int, *words: str) -> float:
        self.change(self.files[:changed])
        seconds = timed(lambda: self._note(name, self._session.ask(self.project, *words)))
        self._session.settle(self.project)
        return seconds

    def _note(self, name: str, answer: dict[str, float]) -> None:
        self.told.setdefault(name, []).append(answer["duration_ms"])


def sealing(place: Path, files: int, rounds: int) -> Medians:
    """Time a live checkpoint as the daemon tells it, and the others as whole processes."""
    few, many = (f"{_one_in(part, files):,} changed" for part in (_FEW, _MANY))
    with ExitStack() as stack:
        upper = Upper(stack.enter_context(Session(place / "envstack")), files)
        copies = place / "copies"
        copies.mkdir()
        subjects: dict[str, Callable[[], float]] = {
            "find -printf, of the upper": partial(_list, upper.sealed),
            "envstack checkpoint, 0 changed": partial(upper.checkpoint, "0 changed", 0),
            f"envstack checkpoint, {few}": partial(upper.checkpoint, few, _one_in(_FEW, files)),
            f"envstack checkpoint, {many}": partial(upper.checkpoint, many, _one_in(_MANY, files)),
            "cp -a": partial(_copy, upper.path, copies),
        }
        if not missing(peers.PROGRAMS):
            containers = stack.enter_context(peers.containers(place / "peers"))
            subjects["podman commit"] = _podman(containers, files)
        whole = interleaved(subjects, rounds)
    reference, *others = whole.items()
    daemon = {
        f"in the daemon, {name}": median(upper.told[name]) for name in ("0 changed", few, many)
    }
    return dict([reference, *daemon.items(), *others])


def restoring(place: Path, files: int, rounds: int) -> Medians:
    """Time a rollback in place of one file in a thousand, and git's of as many."""
    changed = _one_in(_FEW, files)
    with Session(place / "envstack") as session:
        upper = Upper(session, files)
        repository = place / "repository"
        repository.mkdir()
        material.repository(repository, files)
        tracked = sorted(repository.glob("made-*/*/*"))
        subjects: dict[str, Callable[[], float]] = {
            "find -printf, of the upper": partial(_list, upper.sealed),
            "envstack rollback": partial(upper.roll_back_after_checkpoint, "saved", changed),
            "envstack rollback --discard": partial(
                upper.roll_back_after_checkpoint, "discarded", changed, "--discard"
            ),
            "envstack rollback, again": partial(_again, upper, changed),
            "git checkout": partial(_check_out, repository, tracked[:changed]),
        }
        whole = interleaved(subjects, rounds)
    reference, *others = whole.items()
    daemon = {
        "in place, in the daemon": median(upper.told["saved"]),
        "discarding, in the daemon": median(upper.told["discarded"]),
        "again, in the daemon": median(upper.told["again"]),
    }
    return dict([reference, *daemon.items(), *others])


def standing_still(place: Path, files: int, rounds: int) -> Medians:
    """Find the longest gap in the time of a process that `envstack run` started."""
    with Session(place / "envstack") as session:
        upper = Upper(session, files)
        with _timekeeper(session, upper.project) as gap:
            subjects: dict[str, Callable[[], float]] = {"nothing is done": partial(_idle, gap)}
            for changed in (0, _one_in(_FEW, files), _one_in(_MANY, files)):
                name = f"live checkpoint, {changed:,} changed"
                subjects[name] = partial(_gap_over, gap, partial(upper.checkpoint, name, changed))
            name = f"rollback in place, {_one_in(_FEW, files):,} changed"
            work = partial(upper.roll_back, name, _one_in(_FEW, files))
            subjects[name] = partial(_gap_over, gap, work)
            return interleaved(subjects, rounds)


def _one_in(part: int, files: int) -> int:
    return max(1, files // part)


def _list(tree: Path) -> float:
    command = ["find", str(tree), "-printf", _FACTS]
    return timed(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))


def _copy(tree: Path, place: Path) -> float:
    copy = place / f"copy-{time.monotonic_ns()}"
    seconds = timed(lambda: output(["cp", "-a", str(tree), str(copy)]))
    output(["rm", "-rf", str(copy)])
    return seconds


def _podman(containers: peers.Containers, files: int) -> Callable[[], float]:
    """Return what commits so many files and one; with none more podman knows the layer."""
    container, merged = containers.podman()
    material.fill(merged, files)

    def commit() -> float:
        material.fill(merged, 1)
        return containers.time("podman", "commit", "--quiet", container)

    return commit


def _again(upper: Upper, changed: int) -> float:
    """Roll back after another rollback: what the upper held is not known then."""
    upper.roll_back_after_checkpoint("before", changed)
    return upper.roll_back("again", changed)


def _check_out(repository: Path, files: Sequence[Path]) -> float:
    for path in files:
        path.write_text("changed")
    return timed(lambda: output(["git", "-C", str(repository), "checkout", "--quiet", "."]))


@contextmanager
def _timekeeper(session: Session, project: Path) -> Iterator[Callable[[], float]]:
    """Yield what returns the longest gap, in seconds, since it was called last."""
    command = [*PROGRAM, "-C", str(project), "run", sys.executable, "-c", _LOOP]
    with subprocess.Popen(
        command, env=session.environ, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = process.stdout

        def gap() -> float:
            process.send_signal(signal.SIGUSR1)
            return int(lines.readline()) / 1e9

        try:
            assert lines.readline() == "begun\n"
            yield gap
        finally:
            process.kill()


def _gap_over(gap: Callable[[], float], work: Callable[[], object]) -> float:
    gap()
    work()
    return gap()


def _idle(gap: Callable[[], float]) -> float:
    return _gap_over(gap, partial(time.sleep, 0.5))


LIVE = Figure(
    title="A live checkpoint (aim: 3 times the listing, a twentieth of podman's time)",
    measure=sealing,
    counted="files",
    sizes={100_000: 5},
    quick={100: 1},
    optional=peers.PROGRAMS,
)
IN_PLACE = Figure(
    title="A rollback in place of one file in a thousand",
    measure=restoring,
    counted="files",
    sizes={100_000: 5},
    quick={100: 1},
    programs=("git",),
)
PAUSE = Figure(
    title="The longest pause of a process that `envstack run` started",
    measure=standing_still,
    counted="files",
    sizes={100_000: 7},
    quick={100: 1},
)
