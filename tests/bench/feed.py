"""From a write to the line that names it: `envstack watch --json`, Watchman, inotifywait.

All watch the merged tree of one environment, one program after the other. In quiet, a write comes
after half a second to a second of nothing; in a storm, another program makes files all the time.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import time
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from tests.bench import watchers
from tests.bench.figure import Figure, Medians, missing
from tests.bench.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.bench.watchers import Watcher

    Start = Callable[[], AbstractContextManager[Watcher]]


_PATIENCE, _LONG_PATIENCE = 5.0, 60.0


def latency(
    pauses: tuple[float, float],
    weather: Callable[[Path], AbstractContextManager[None]],
    place: Path,
    writes: int,
    _rounds: int,
) -> Medians:
    """Time so many writes for each program, with pauses of so many seconds between them.

    A program that says nothing of a write for seconds has no row: as shipped, Watchman waits for
    20 ms without any change, which a storm does not grant it.
    """
    found = {}
    with Session(place / "envstack") as session:
        project = session.project("project")
        merged = session.up(project)
        for name, start in _programs(session, project, merged, place).items():
            with start() as watcher, weather(merged):
                times = sorted(_latencies(watcher, merged, writes, pauses))
            if len(times) == writes:
                found[f"{name}, median"] = statistics.median(times) * 1000
                found[f"{name}, 99 %"] = _percentile(times, 99) * 1000
    return found


def rate(place: Path, files: int, rounds: int) -> Medians:
    """Count the changes a second until the line of one that comes after so many others."""
    found = {}
    with Session(place / "envstack") as session:
        project = session.project("project")
        merged = session.up(project)
        for name, start in _programs(session, project, merged, place).items():
            times = [_storm(start, merged, files) for _ in range(rounds)]
            told = [seconds for seconds in times if seconds is not None]
            if told:
                found[name] = files / statistics.median(told)
    return found


def _programs(session: Session, project: Path, merged: Path, place: Path) -> Mapping[str, Start]:
    """Return how to start each program that this machine has; the floor first."""
    watch = session.command(project, "watch", "--json")
    programs: dict[str, Start] = {}
    if not missing(("inotifywait",)):
        programs["inotifywait"] = partial(watchers.inotifywait, merged)
    programs["envstack watch"] = partial(watchers.envstack, watch, session.environ)
    if not missing(("watchman",)):
        state = place / "watchman"
        programs["watchman"] = partial(watchers.watchman, state, merged)
        programs["watchman, settle 1"] = partial(watchers.watchman, state, merged, 1)
    return programs


def _latencies(
    watcher: Watcher, tree: Path, writes: int, pauses: tuple[float, float]
) -> Iterator[float]:
    for number in range(writes):
        time.sleep(random.uniform(*pauses))
        name = f"probe-{number}-{time.monotonic_ns()}"
        seconds = watcher.seconds(name, partial((tree / name).write_text, "x"), _PATIENCE)
        if seconds is None:
            return
        yield seconds


def _storm(start: Start, tree: Path, files: int) -> float | None:
    """Return the seconds from the first of so many writes to the line of one after the last."""
    last = f"last-{time.monotonic_ns()}"

    def blow() -> None:
        subprocess.run(watchers.flat_out(tree, files), check=True)
        (tree / last).write_text("x")

    with start() as watcher:
        seconds = watcher.seconds(last, blow, _LONG_PATIENCE)
    subprocess.run(["rm", "-rf", tree / "storm"], check=True)
    return seconds


def _percentile(times: list[float], percent: int) -> float:
    """Return the least of the sorted `times` that so many of them do not exceed."""
    return times[max(0, -(-len(times) * percent // 100) - 1)]


QUIET = Figure(
    title="From a write to its line, after quiet (aim: 99 % under 20 ms)",
    measure=partial(latency, (0.5, 1.0), lambda _: nullcontext()),
    counted="writes",
    sizes={100: 1},
    quick={2: 1},
    optional=watchers.PROGRAMS,
)
STORM = Figure(
    title="From a write to its line, in a storm (aim: 99 % under 5 ms)",
    measure=partial(latency, (0.01, 0.05), watchers.in_a_storm),
    counted="writes",
    sizes={500: 1},
    quick={2: 1},
    optional=watchers.PROGRAMS,
)
RATE = Figure(
    title="Changes a second, until the line of the last",
    measure=rate,
    counted="files",
    sizes={10_000: 3, 100_000: 1},
    quick={100: 1},
    unit="1/s",
    optional=watchers.PROGRAMS,
)
