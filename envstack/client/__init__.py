"""Typed calls over the socket: finds the daemon of this user, starts it, replaces an older one.

Blocking, and quick to import: every command pays for it. What only a start needs is imported when
it comes to that, and the feed (`watch`, `awatch`, `sync`, and the types of its events) when it is
asked for here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

from envstack.client import process
from envstack.client.connection import Client, ConnectionEnded, NotRunning, RemoteError
from envstack.errors import NoDaemon
from envstack.rpc.messages import Output, Progress
from envstack.rpc.peer import peer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from envstack.client.async_feed import AsyncFeed, awatch
    from envstack.client.feed import Feed, sync, watch
    from envstack.rpc.feed import (
        Changes,
        CheckpointMade,
        Event,
        MountChanged,
        Ready,
        RollbackBegin,
        RollbackEnd,
        Synced,
        Unknown,
    )
    from envstack.rpc.places import Places

__all__ = [
    "AsyncFeed",
    "Changes",
    "CheckpointMade",
    "Client",
    "Event",
    "Feed",
    "MountChanged",
    "NotRunning",
    "Output",
    "Progress",
    "Ready",
    "RemoteError",
    "RollbackBegin",
    "RollbackEnd",
    "Synced",
    "Unknown",
    "awatch",
    "connect",
    "connect_or_start",
    "find",
    "sync",
    "watch",
]

_SECONDS = 30.0
"""How long a daemon may take to come up, to greet, and to end."""

_LATE = {
    "envstack.client.async_feed": ("AsyncFeed", "awatch"),
    "envstack.client.feed": ("Feed", "sync", "watch"),
    "envstack.rpc.feed": (
        *("Changes", "CheckpointMade", "Event", "MountChanged", "Ready"),
        *("RollbackBegin", "RollbackEnd", "Synced", "Unknown"),
    ),
}
"""Where to be found what most commands do without."""

_ELSEWHERE = "set ENVSTACK_HOME to a directory of your own, which gives it another socket"

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


def connect(places: Places, command: Sequence[str] = ()) -> Client:
    """Return a client of the daemon that runs; raises NotRunning where none does.

    A daemon older than this program is replaced by one of this program's, which takes over what is
    mounted. Raises StateError for a daemon of another mount namespace or home, RemoteError (exit 7)
    for a newer one, NoDaemon where there is no talking to it. `command` is as in
    `connect_or_start`.
    """
    client = find(places)
    if not client.is_outdated:
        return client
    _retire(client)
    return connect_or_start(places, command)


def connect_or_start(places: Places, command: Sequence[str] = ()) -> Client:
    """Like `connect`, and start the daemon where none runs.

    `command` starts it and takes `--ready-fd N` (`daemon.process.main`); by default it is this very
    program. Raises RemoteError with what kept the daemon from starting.
    """
    deadline = time.monotonic() + _SECONDS
    pause = _FIRST_PAUSE
    while time.monotonic() < deadline:
        try:
            client = find(places)
        except NotRunning:
            if not process.start(places, command or process.own_command(), deadline):
                # Another one has the lock: it opens its socket soon, or it is about to end.
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            continue
        if not client.is_outdated:
            return client
        _retire(client)
    raise NoDaemon(
        f"no daemon came up within {_SECONDS:.0f} seconds", f"see {os.fsdecode(places.log)}"
    )


def find(places: Places, seconds: float = _SECONDS) -> Client:
    """Return a client of whatever daemon runs and greets within `seconds`; raises as `connect`.

    An older daemon is left as it is, and may not know every method.
    """
    where = os.fsdecode(places.socket)
    with contextlib.ExitStack() as undo:
        connection = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            connection.connect(places.socket)
            if peer_of(connection).uid not in (0, os.geteuid()):
                raise NoDaemon(f"another user listens on {where}", _ELSEWHERE)
            client = Client(connection, places, time.monotonic() + seconds)
        except (FileNotFoundError, ConnectionRefusedError, ConnectionEnded) as error:
            raise NotRunning("no daemon runs", "envstack up") from error
        except TimeoutError as error:
            hint = f"see {os.fsdecode(places.log)}"
            raise NoDaemon("the daemon does not answer", hint) from error
        except OSError as error:
            message = f"no talking to the daemon on {where}: {error.strerror}"
            raise NoDaemon(message, _ELSEWHERE) from error
        undo.pop_all()
    return client


def _retire(client: Client) -> None:
    """End the daemon, wait until it has ended, and close; raises NoDaemon if it stays."""
    with client, process.watched(client.daemon_pid) as daemon:
        with contextlib.suppress(ConnectionEnded):
            client.call("daemon.stop")
        if daemon is not None and not process.has_input(daemon, time.monotonic() + _SECONDS):
            raise NoDaemon(
                f"the daemon is older (version {client.identity['version']}) and does not end",
                f"end process {client.daemon_pid}; what is mounted stays mounted",
            )


if not TYPE_CHECKING:  # a checker would believe in any name

    def __getattr__(name: str) -> object:
        """Import what is asked for here and lies in a module that takes a while (PEP 562)."""
        from importlib import import_module

        for module, names in _LATE.items():
            if name in names:
                return getattr(import_module(module), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
