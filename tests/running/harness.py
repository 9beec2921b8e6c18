"""One environment that many tests run commands in, and a terminal with job control on it."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
import termios
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envstack.linux import cgroup
from tests.cli.harness import MODULE, Cli, Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONTROLLING = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
PROGRAM = " ".join(MODULE)
"""How a shell calls envstack."""


@dataclass
class Environment:
    """A project whose environment is up; `cli` runs commands from the project."""

    cli: Cli

    @property
    def project(self) -> Path:
        return self.cli.cwd

    @property
    def merged(self) -> Path:
        return self.project / ".envstack" / "merged"

    def at(self, cwd: Path, **environ: str) -> Cli:
        """Return what runs commands from elsewhere, with other variables."""
        return Cli(cwd, {**self.cli.environ, **environ})

    def state(self) -> Any:
        """Return what `status` says."""
        return self.cli("status", "--json").document


def bring_up(project: Path, home: Path, **stack: Any) -> Environment:
    """Bring up a project; `stack` is what its stack file says besides."""
    written = {"version": 1, "name": "web", "layers": [{"name": "base", "dir": "."}], **stack}
    (project / "envstack.yaml").write_text(json.dumps(written))
    cli = Cli(project, {"ENVSTACK_HOME": str(home)})
    done = cli("up")
    assert done.code == 0, done.err
    return Environment(cli)


def take_down(environment: Environment) -> None:
    """Delete an environment, end its daemon, and make sure that no group is left."""
    home = os.fsencode(environment.cli.environ["ENVSTACK_HOME"])
    done = environment.cli("down", "--purge", "--yes")
    assert done.code == 0, done.err
    assert environment.cli("daemon", "stop").code == 0
    assert groups(home) == []


def groups(home: bytes) -> list[bytes]:
    """Return the directories of the groups of a store."""
    from envstack.environment.groups import family_of

    return sorted({group.path for _, group in cgroup.find(family_of(home))})


class Screen:
    """A terminal whose text is read piece by piece, each only once."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._read = 0

    def see(self, text: str) -> str:
        """Wait until `text` comes; return all that came since the last time, up to its end."""
        while (at := self._terminal.said.find(text, self._read)) < 0:
            assert self._terminal._read(), f"it ended without {text!r}: {self._terminal.said!r}"
        shown = self._terminal.said[self._read : at + len(text)]
        self._read = at + len(text)
        return shown

    def type(self, text: str) -> None:
        self._terminal.type(text)

    def resize(self, rows: int, columns: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._terminal.descriptor, termios.TIOCSWINSZ, size)


@contextmanager
def screen(cli: Cli, *command: str) -> Iterator[Screen]:
    """Run a command that has a terminal to control, of 24 rows and 80 columns."""
    words = (sys.executable, "-c", _CONTROLLING, *command)
    with cli.on_terminal(command=words) as terminal:
        shown = Screen(terminal)
        shown.resize(24, 80)
        yield shown
