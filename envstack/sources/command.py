"""The `run` entry: a shell command whose changes to the tree below it become a layer.

Hands on what the command prints, and says in words how it failed. Where it runs, and that nothing
of it is left, is the launcher's business; whether it may run was decided before.
"""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

from envstack.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envstack.linux.commands import Command
    from envstack.linux.launcher import Launcher, Running

_READ = 1 << 16
_KEPT = 4096
"""Bytes of output that an error carries at the most."""
_LINES = 20
_PAUSE_MS = 100
"""How long a command may go on that nobody wants the result of any more."""


def run(launcher: Launcher, command: Command, name: str, show: Callable[[bytes], None]) -> None:
    """Run `command`, that of the layer `name`, to its end.

    `show` is given what it prints, as it comes, and nothing while it is silent, ten times a second;
    what it raises ends the command with all that it started. Raises CommandFailed where the command
    fails, EnvstackError where it cannot be started.
    """
    tail = b""
    with launcher.start(command) as running:
        for piece in _output(running):
            show(piece)
            tail = (tail + piece)[-_KEPT:]
        status = running.wait()
    if status != 0:
        last = b"\n".join(tail.splitlines()[-_LINES:])
        raise CommandFailed(
            f"layer {name!r} was not built: its command {_ending(status)}",
            "mend it, then: envstack up",
            last.decode("utf-8", "replace"),
        )


def _output(running: Running) -> Iterator[bytes]:
    """Yield what the command prints until it has ended, whatever else holds its output open."""
    output = running.output
    poll = select.poll()
    poll.register(output, select.POLLIN)
    poll.register(running, select.POLLIN)
    while True:
        ready = dict(poll.poll(_PAUSE_MS))
        if output not in ready:
            yield b""
            if ready:  # it has ended, and all that it printed was read
                return
            continue
        piece = os.read(output, _READ)
        if not piece:
            poll.unregister(output)
        yield piece


def _ending(status: int) -> str:
    """Return how a command ended; a signal is a status below 0."""
    if status >= 0:
        return f"ended with exit code {status}"
    return f"was ended by {signal.Signals(-status).name}"
