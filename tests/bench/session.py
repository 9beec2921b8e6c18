"""envstack as a user has it: whole processes of its command line, a daemon and a store."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.bench import timing
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

PROGRAM = (sys.executable, "-m", "envstack")


class Session:
    """A daemon of its own over a store of its own; leaving the context ends and deletes all."""

    def __init__(self, place: Path) -> None:
        """Keep the store and the projects below `place`."""
        self._place = place
        self._projects: list[Path] = []
        self.environ = {**os.environ, "ENVSTACK_HOME": str(place / "home")}

    def project(self, name: str, layers: Sequence[Json] | None = None) -> Path:
        """Make a project of these layers, by default its own directory by reference."""
        project = self._place / name
        project.mkdir(parents=True)
        stack = {"version": 1, "layers": layers or [{"name": "project", "dir": "."}]}
        (project / "envstack.yaml").write_text(json.dumps(stack))
        self._projects.append(project)
        return project

    def up(self, project: Path) -> Path:
        """Bring the environment up and return its merged tree."""
        return Path(self.ask(project, "up")["mount"])

    def ask(self, project: Path, *words: str) -> Any:
        """Return the answer of a command as JSON."""
        return json.loads(timing.output(self.command(project, *words, "--json"), self.environ))

    def time(self, project: Path, *words: str) -> float:
        """Return the seconds that a command takes as a whole process."""
        return timing.program(self.command(project, *words), self.environ)

    def settle(self, project: Path) -> None:
        """Wait until the daemon has done what it does in the background after a checkpoint."""

        def settled() -> bool:
            return all(row["changes"] and row["sealed"] for row in self.ask(project, "log"))

        waiting.until(settled, "the end of the daemon's background work", within=60.0)

    def command(self, project: Path, *words: str) -> list[str]:
        """Return the command line of a command in `project`."""
        return [*PROGRAM, "-C", str(project), *words]

    def close(self) -> None:
        """Delete the environments and end the daemon."""
        for project in self._projects:
            if (project / ".envstack").exists():
                self.ask(project, "down", "--purge", "--yes")
        timing.output([*PROGRAM, "daemon", "stop"], self.environ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
