"""Everyday programs in a merged tree, against a plain overlay and against a bare directory.

The plain overlay is mounted by mount(8) with the kernel's defaults. All trees show the same files,
the overlays from one and the same lower directory, the bare one from a copy of it. Every program
runs once in each before it is timed, so that caches are warm for all of them alike.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tests.bench import material, timing
from tests.bench.figure import Figure, Medians
from tests.bench.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHECKPOINTS = 10

_COMPILE = 'for source in src/*.c; do gcc -O1 -c "$source" -o "out/${source##*/}.o"; done'


@dataclass(frozen=True)
class Program:
    """What a program works on, how it is called in a tree, and whether it fills `out` there."""

    prepare: Callable[[Path, int], None]
    command: tuple[str, ...]
    fills_out: bool = True

    def time(self, tree: Path) -> float:
        """Return the seconds that it takes in `tree`; what it left there before is deleted."""
        if self.fills_out:
            shutil.rmtree(tree / "out", ignore_errors=True)
            (tree / "out").mkdir()
        return timing.program(self.command, cwd=tree)


def measure(program: Program, place: Path, size: int, rounds: int) -> Medians:
    """Time the program in each kind of tree."""
    source, bare = place / "source", place / "bare"
    source.mkdir()
    program.prepare(source, size)
    timing.output(["cp", "-a", str(source), str(bare)])
    layers = [{"name": "source", "dir": str(source)}]
    with Session(place / "envstack") as session, _plain_overlay(place, source) as plain:
        worn = session.project("worn", layers)
        trees = {
            "plain overlay": plain,
            "bare directory": bare,
            "envstack": session.up(session.project("fresh", layers)),
            f"envstack, {_CHECKPOINTS} checkpoints": session.up(worn),
        }
        for _ in range(_CHECKPOINTS):
            material.fill(trees[f"envstack, {_CHECKPOINTS} checkpoints"], 1)
            session.ask(worn, "checkpoint")
        subjects = {name: partial(program.time, tree) for name, tree in trees.items()}
        for run in subjects.values():
            run()
        return timing.interleaved(subjects, rounds)


@contextmanager
def _plain_overlay(place: Path, lower: Path) -> Iterator[Path]:
    upper, work, merged = (place / name for name in ("upper", "work", "merged"))
    for directory in (upper, work, merged):
        directory.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    timing.output(["mount", "-t", "overlay", "plain", "-o", options, str(merged)])
    try:
        yield merged
    finally:
        timing.output(["umount", str(merged)])


def _archive(tree: Path, files: int) -> None:
    material.archive(tree / "archive.tar", files)


def _sources(tree: Path, files: int) -> None:
    material.sources(tree / "src", files)


def _figure(
    title: str, program: Program, counted: str, sizes: dict[int, int], quick: dict[int, int]
) -> Figure:
    return Figure(
        title=f"{title} (aim: 1.0 of the plain overlay)",
        measure=partial(measure, program),
        counted=counted,
        sizes=sizes,
        quick=quick,
        programs=(program.command[0],) if program.command[0] != "sh" else ("gcc",),
    )


GIT = _figure(
    "git status",
    Program(material.repository, ("git", "status", "--porcelain"), fills_out=False),
    "files",
    {5_000: 15, 20_000: 9},
    {100: 1},
)
TAR = _figure(
    "tar x",
    Program(_archive, ("tar", "xf", "archive.tar", "-C", "out")),
    "files",
    {10_000: 9},
    {100: 1},
)
COMPILE = _figure(
    "gcc",
    Program(_sources, ("sh", "-c", _COMPILE)),
    "sources",
    {50: 5},
    {2: 1},
)
