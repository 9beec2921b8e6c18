"""`daemon run|start|stop|status|logs`: the daemon by hand. Other commands start it as needed."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, text
from envstack.cli.command import Json, begin
from envstack.client import NotRunning, connect, process
from envstack.client.connection import ConnectionEnded
from envstack.errors import EnvstackError, NoDaemon, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.text import Paint
    from envstack.client import Client

_STOP_SECONDS = 60.0
"""How long requests that must not be torn may take before a daemon that was told to stop ends."""

_ReadyFd = Annotated[
    int | None, typer.Option("--ready-fd", metavar="N", hidden=True, show_default=False)
]

_Lines = Annotated[
    int | None,
    typer.Option("-n", "--lines", metavar="N", min=0, help="The last N lines.", show_default=False),
]
_Follow = Annotated[bool, typer.Option("-f", "--follow", help="Print further lines as they come.")]


def run(ctx: typer.Context, ready_fd: _ReadyFd = None, json: Json = False) -> None:
    """Be the daemon, in the foreground.

    Ctrl-C or SIGTERM end it; mounts stay as they are.

    \b
    Examples:
      ENVSTACK_LOG=debug envstack daemon run
    """
    from envstack.daemon import process as daemon

    begin(ctx, json)
    calls.require_root()
    raise typer.Exit(daemon.main(os.environ, ready_fd))


def start(ctx: typer.Context, json: Json = False) -> None:
    """Start the daemon in the background.

    It ends by itself when no environment is up.

    \b
    Examples:
      envstack daemon start
    """
    out = begin(ctx, json)
    with calls.started() as client:
        answer = calls.call(out, client, "daemon.status")
    out.show(answer, _status_lines(answer, out.paint))


def stop(ctx: typer.Context, json: Json = False) -> None:
    """End the daemon; what is mounted stays mounted.

    The next daemon takes it over.

    \b
    Examples:
      envstack daemon stop
    """
    out = begin(ctx, json)
    try:
        client = connect(calls.own_places())
    except NotRunning:
        out.show({"pid": None}, ["no daemon runs"])
        return
    with client:
        pid = client.identity["pid"]
        _end(client)
    out.show({"pid": pid}, [f"the daemon (process {pid}) has ended"])


def _end(client: Client) -> None:
    """Tell the daemon to stop and wait for its end; raises NoDaemon if it stays."""
    with process.watched(client.daemon_pid) as daemon:
        try:
            client.call("daemon.stop")
        except ConnectionEnded:
            return
        if daemon is not None and not process.has_input(daemon, time.monotonic() + _STOP_SECONDS):
            raise NoDaemon("the daemon was told to stop, and still runs", "envstack daemon logs")


def status(ctx: typer.Context, json: Json = False) -> None:
    """Show the daemon: process, version, what it keeps up.

    Exit code 4 if none runs.

    \b
    Examples:
      envstack daemon status
    """
    out = begin(ctx, json)
    with calls.running() as client:
        answer = calls.call(out, client, "daemon.status")
    out.show(answer, _status_lines(answer, out.paint))


def _status_lines(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    yield f"daemon {paint('green', 'runs')}: process {row['pid']}, version {row['version']}"
    names = ", ".join(text.escaped(name) for name in row["environments"])
    facts = (
        ("up", names or paint("dim", "nothing")),
        ("socket", text.name(row["socket"])),
        ("log", text.name(row["log"])),
    )
    yield from text.columns([["", paint("dim", word), fact] for word, fact in facts])


def logs(
    ctx: typer.Context, lines: _Lines = None, follow: _Follow = False, json: Json = False
) -> None:
    """Print the daemon's log.

    With --follow, go on until Ctrl-C; with --json as well, each line is an object of its own.

    \b
    Examples:
      envstack daemon logs -n 20
      envstack daemon logs -f
    """
    from itertools import chain

    from envstack.cli import logfile

    out = begin(ctx, json)
    path = os.fsdecode(calls.own_places().log)
    try:
        with open(path, "rb") as file:
            found = logfile.last_lines(file, lines)
            if follow:
                for line in chain(found, logfile.following_lines(file, out.wait)):
                    out.show({"line": line}, [text.escaped(line)])
    except FileNotFoundError:
        raise NotFound(f"there is no log yet ({path})", "envstack daemon start") from None
    except OSError as error:
        raise EnvstackError(f"{path} cannot be read: {error.strerror}") from error
    out.show({"log": path, "lines": found}, map(text.escaped, found))
