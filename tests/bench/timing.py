"""Times: of a call, of a program, and of several things in turn."""

from __future__ import annotations

import subprocess
import time
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


def interleaved(subjects: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each subject, which returns seconds at each call.

    The subjects take turns, each round beginning with another one, so that whatever else the
    machine does meets all of them alike.
    """
    names = list(subjects)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            times[name].append(subjects[name]())
    return {name: median(seconds) * 1000 for name, seconds in times.items()}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def program(
    command: Sequence[str], environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> float:
    """Return the seconds from the start of a program to its end; raises if it fails."""
    return timed(lambda: output(command, environ, cwd))


def output(
    command: Sequence[str], environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Return what a program prints; RuntimeError with its complaint if it fails."""
    done = subprocess.run(
        command, env=environ, cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr}")
    return done.stdout
