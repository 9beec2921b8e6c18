"""What changed in an upper: `envstack diff` against `podman diff`. buildah has no such command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import material, peers
from tests.bench.figure import Figure, Medians
from tests.bench.session import Session
from tests.bench.timing import interleaved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def measure(place: Path, files: int, rounds: int) -> Medians:
    """Time both commands as whole processes, on the same number of new files."""
    with Session(place / "envstack") as session, peers.containers(place / "peers") as containers:
        project = session.project("project")
        material.fill(session.up(project), files)
        container, merged = containers.podman()
        material.fill(merged, files)
        subjects: dict[str, Callable[[], float]] = {
            "podman diff": lambda: containers.time("podman", "diff", container),
            "envstack diff": lambda: session.time(project, "diff"),
            "envstack diff --json": lambda: session.time(project, "diff", "--json"),
        }
        return interleaved(subjects, rounds)


FIGURE = Figure(
    title="What changed in an upper (aim: a quarter of podman's time)",
    measure=measure,
    counted="files",
    sizes={100: 9, 10_000: 7, 100_000: 5},
    quick={100: 1},
    programs=peers.PROGRAMS,
)
