"""`up` and `down`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import REBUILD, Json, begin
from envstack.cli.purge import confirm, require_terminal
from envstack.cli.trust import up_with_consent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.text import Paint

_Rebuild = Annotated[
    str | None,
    typer.Option(
        REBUILD, metavar="[LAYER]", help="Build it and all above it anew.", show_default=False
    ),
]
_Trust = Annotated[bool, typer.Option("--trust", help="Run its commands without asking.")]
_StackFile = Annotated[str | None, typer.Argument(metavar="STACKFILE", hidden=True)]
_Purge = Annotated[bool, typer.Option("--purge", help="Delete the environment and its history.")]
_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before a purge.")]


def up(
    ctx: typer.Context,
    stackfile: _StackFile = None,
    rebuild: _Rebuild = None,
    trusts: _Trust = False,
    json: Json = False,
) -> None:
    """Mount the merged tree, as it was left.

    Starts the daemon if none runs, and builds what is missing. Without STACKFILE it takes the
    nearest envstack.yaml upwards.

    Commands of `run` layers are shown and asked about before they run for the first time.
    --rebuild builds a layer anew, with all above it, or every layer; the merged tree begins on
    them afresh. What was not sealed is sealed first, and the history stays.

    \b
    Examples:
      envstack up
      envstack -C ~/src/web up
      envstack up stacks/hello/envstack.yaml
      envstack up --rebuild deps
    """
    out = begin(ctx, json)
    calls.require_root()
    target = place.here() if stackfile is None else place.named(stackfile)
    with calls.started() as client:
        params = {"stack": calls.stack_of(out, client, target), "environ": dict(os.environ)}
        answer = up_with_consent(out, client, **params, rebuild=rebuild, trust=trusts)
        out.show(answer, _is_up(answer, out.paint))


def _is_up(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    state = text.state(row["state"], paint)
    yield f"{paint('bold', text.escaped(row['name']))} is {state} at {text.name(row['mount'])}"
    for name in row["outdated"]:
        told = f"layer {text.escaped(name)} was made from something else than what is there now"
        yield paint("yellow", f"{told} (envstack up --rebuild {text.escaped(name)})")
    if row["saved"]:
        saved = row["saved"][: text.ID_SHOWN]
        yield f"what was not sealed is kept as {saved} (envstack rollback {saved})"
    if row["head"] is None:
        yield paint("dim", 'next: work in there; envstack checkpoint -m "what works"')


def down(
    ctx: typer.Context,
    stackfile: _StackFile = None,
    purge: _Purge = False,
    yes: _Yes = False,
    json: Json = False,
) -> None:
    """Unmount the merged tree.

    Its changes and its history are kept for the next `envstack up`. With --purge they are deleted,
    after a question; without a terminal only with --yes. An environment whose project is gone is
    named by the path that its stack file had.

    \b
    Examples:
      envstack down
      envstack down --purge       # delete its changes and its history for good
      envstack down --purge /gone/project/envstack.yaml
    """
    out = begin(ctx, json)
    calls.require_root()
    target = place.here() if stackfile is None else place.known_by(stackfile)
    if not purge:
        with calls.running() as client:
            answer = calls.call(out, client, "env.down", **target, purge=False)
        out.show(answer, _is_down(answer, out.paint))
        return
    if not yes:
        require_terminal(out)
    with calls.started() as client:
        if not yes:
            confirm(out, client, target)
        answer = calls.call(out, client, "env.down", **target, purge=True)
    name = out.paint("bold", text.escaped(answer["name"]))
    out.show(answer, [f"{name} is deleted, with its history"])


def _is_down(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    yield f"{paint('bold', text.escaped(row['name']))} is down"
    yield paint("dim", "changes and history are kept; next: envstack up")
