"""Sealing an upper: a rotation against the commits of podman and buildah, of as many files.

A rotation leaves an empty upper, so it is filled anew for each; for the two peers a file more in
each round keeps them from recognizing a layer that they have.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from tests.bench import material, peers
from tests.bench.figure import Figure, Medians
from tests.bench.session import Session
from tests.bench.timing import interleaved, timed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.bench.peers import Containers


def measure(place: Path, files: int, rounds: int) -> Medians:
    """Time a rotation as the daemon tells it, and the three commands as whole processes."""
    rotations: list[float] = []
    with Session(place / "envstack") as session, peers.containers(place / "peers") as containers:
        subjects = {
            "envstack checkpoint": _checkpoint(session, files, rotations),
            "podman commit": _podman(containers, files),
            "buildah commit": _buildah(containers, files),
        }
        commands = interleaved(subjects, rounds)
    return {"rotation, in the daemon": median(rotations), **commands}


def _checkpoint(session: Session, files: int, rotations: list[float]) -> Callable[[], float]:
    project = session.project("project")
    merged = session.up(project)

    def checkpoint() -> float:
        material.fill(merged, files)
        seconds = timed(lambda: rotations.append(session.ask(project, "checkpoint")["duration_ms"]))
        session.settle(project)
        return seconds

    return checkpoint


def _podman(containers: Containers, files: int) -> Callable[[], float]:
    container, merged = containers.podman()
    material.fill(merged, files)

    def commit() -> float:
        material.fill(merged, 1)
        return containers.time("podman", "commit", "--quiet", container)

    return commit


def _buildah(containers: Containers, files: int) -> Callable[[], float]:
    container, merged = containers.buildah()
    material.fill(merged, files)

    def commit() -> float:
        material.fill(merged, 1)
        return containers.time("buildah", "commit", "--quiet", container)

    return commit


FIGURE = Figure(
    title="An upper becomes a layer (aim: podman and buildah take 1,000 times a rotation)",
    measure=measure,
    counted="files",
    sizes={100: 9, 10_000: 5, 100_000: 3},
    quick={100: 1},
    programs=peers.PROGRAMS,
)
