"""`up` of a stack that is built, after `down` and while it is up, against its first `up`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import material
from tests.bench.figure import Figure, Medians
from tests.bench.session import Session
from tests.bench.timing import interleaved

Layers = Callable[[Path, int], list[dict[str, Any]]]
"""Returns the layers of a stack that takes some time to build; it may make files in a directory."""


def measure(layers: Layers, place: Path, size: int, rounds: int) -> Medians:
    """Time whole processes. The daemon runs before the first of them."""
    place.joinpath("other").mkdir()
    with Session(place / "envstack") as session:
        session.up(session.project("other"))
        project = session.project("project", layers(place / "other", size))

        def first() -> float:
            session.ask(project, "down", "--purge", "--yes")
            return session.time(project, "up", "--trust")

        def after_down() -> float:
            session.ask(project, "down")
            return session.time(project, "up", "--trust")

        session.ask(project, "up", "--trust")
        subjects = {
            "first up": first,
            "up after down": after_down,
            "up while up": lambda: session.time(project, "up", "--trust"),
        }
        return interleaved(subjects, rounds)


def _copied(place: Path, files: int) -> list[dict[str, Any]]:
    source = material.fill(place, files)
    return [{"name": "project", "dir": "."}, {"name": "data", "dir": str(source), "copy": True}]


def _run(_place: Path, files: int) -> list[dict[str, Any]]:
    command = f"mkdir data && cd data && for each in $(seq {files}); do echo x > $each; done"
    return [{"name": "project", "dir": "."}, {"name": "data", "run": command}]


def _figure(title: str, layers: Layers) -> Figure:
    return Figure(
        title=title,
        measure=partial(measure, layers),
        counted="files",
        sizes={10_000: 7},
        quick={100: 1},
    )


COPY = _figure("A stack with a copied layer comes up", _copied)
RUN = _figure("A stack with a layer that a command made comes up", _run)
