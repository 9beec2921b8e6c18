"""`up` and `down`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import REBUILD, Json, begin
from envstack.cli.purge import confirm, require_terminal
from envstack.cli.trust import up_with_consent
from envstack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.text import Paint

_Rebuild = Annotated[
    str | None,
    typer.Option(
        REBUILD, metavar="[LAYER]", help="Build it and all above it anew.", show_default=False
    ),
]
_Trust = Annotated[bool, typer.Option("--trust", help="Run and fetch without asking.")]
_StackFile = Annotated[str | None, typer.Argument(metavar="STACKFILE", hidden=True)]
_Relay = Annotated[
    bool, typer.Option("--relay", help="Lay the layers anew: directories below it changed.")
]
_Force = Annotated[bool, typer.Option("--force", help="Relay although somebody is inside.")]
_Purge = Annotated[bool, typer.Option("--purge", help="Delete the environment and its history.")]
_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before a purge.")]


def up(
    ctx: typer.Context,
    stackfile: _StackFile = None,
    rebuild: _Rebuild = None,
    trusts: _Trust = False,
    relay: _Relay = False,
    force: _Force = False,
    json: Json = False,
) -> None:
    """Mount the merged tree, as it was left.

    Starts the daemon if none runs, and builds what is missing. Without STACKFILE it takes the
    nearest envstack.yaml upwards.

    Commands of `run` layers are shown and asked about before they run for the first time.
    --rebuild builds a layer anew, with all above it, or every layer; the merged tree begins on
    them afresh. What was not sealed is sealed first, and the history stays.

    Directories of the stack that changed while it is up show through in part. --relay makes all
    of that show; one that was made anew takes an exchange of the mount, as a checkpoint does.

    \b
    Examples:
      envstack up
      envstack -C ~/src/web up
      envstack up stacks/hello/envstack.yaml
      envstack up --rebuild deps
      envstack up --relay
    """
    out = begin(ctx, json)
    calls.require_root()
    if force and not relay:
        raise UsageError("--force goes with --relay alone", "envstack up --relay --force")
    target = place.here() if stackfile is None else place.named(stackfile)
    with calls.started() as client:
        params = {"stack": calls.stack_of(out, client, target), "environ": dict(os.environ)}
        how = {"rebuild": rebuild, "trust": trusts, "relay": relay, "force": force}
        answer = up_with_consent(out, client, **params, **how)
        out.show(answer, _up_lines(answer, out.paint))


def _up_lines(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    state = text.state(row["state"], paint)
    yield f"{paint('bold', text.escaped(row['name']))} is {state} at {text.name(row['mount'])}"
    for name in row["outdated"]:
        told = f"layer {text.escaped(name)} was made from something else than what is there now"
        yield paint("yellow", f"{told} (envstack up --rebuild {text.escaped(name)})")
    if row["saved"]:
        saved = row["saved"][: text.ID_SHOWN]
        yield f"what was not sealed is kept as {saved} (envstack rollback {saved})"
    elif row["left"]:
        left = row["left"][: text.ID_SHOWN]
        yield f"it begins anew; what was there: envstack rollback {left}"
    if row["left_below"]:
        yield paint("yellow", "was here before, and still sees the project below the merged tree:")
        yield from text.holders(row["left_below"], paint)
        yield text.COME_OVER
    if not place.shows_its_stack_file(row):
        told = "the stack file in the merged tree is not the one below, which counts"
        yield paint("yellow", f"{told} (envstack down; edit it; envstack up)")
    if "relaid" in row:
        yield from _relaid_lines(row, row["relaid"], paint)
    yield from text.drift(row["drift"], paint)
    if row["head"] is None:
        yield paint("dim", 'next: work in there; envstack checkpoint -m "what works"')


def _relaid_lines(row: dict[str, Any], relaid: dict[str, Any], paint: Paint) -> Iterator[str]:
    yield "its layers are laid anew"
    yield from text.left_behind(relaid["stranded"], paint)
    if relaid["mode"] == "refresh" and row["holders"]:
        yield paint(
            "yellow", "what these have open stays as it was; relay again when it is closed:"
        )
        yield from text.holders(row["holders"], paint)


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
