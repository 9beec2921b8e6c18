"""`up`, `down`, `status` and `ls`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import REBUILD, Json, begin
from envstack.cli.trust import up_with_consent
from envstack.errors import EnvstackError, NotUp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.output import Output
    from envstack.cli.text import Paint

_STATES = {"up": "green", "down": "dim", "degraded": "red"}

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
        out.show(answer, _up_lines(answer, out.paint))


def _up_lines(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    state = paint(_STATES.get(row["state"], "red"), row["state"])
    yield f"{paint('bold', text.escaped(row['name']))} is {state} at {text.name(row['mount'])}"
    for name in row["outdated"]:
        told = f"layer {text.escaped(name)} was made from something else than what is there now"
        yield paint("yellow", f"{told} (envstack up --rebuild {text.escaped(name)})")
    if row["saved"]:
        saved = row["saved"][: text.ID_SHOWN]
        yield f"what was not sealed is kept as {saved} (envstack rollback {saved})"
    if row["left_below"]:
        yield paint("yellow", "was here before, and still sees the project below the merged tree:")
        yield from text.holders(row["left_below"], paint)
        yield 'a shell comes over with: cd "$PWD"'
    if not place.shows_its_stack_file(row):
        told = "the stack file in the merged tree is not the one below, which counts"
        yield paint("yellow", f"{told} (envstack down; edit it; envstack up)")


def down(
    ctx: typer.Context,
    stackfile: _StackFile = None,
    purge: _Purge = False,
    yes: _Yes = False,
    json: Json = False,
) -> None:
    """Unmount the merged tree.

    Its changes and its history are kept for the next `envstack up`. An environment whose project
    is gone is named by the path that its stack file had.

    \b
    Examples:
      envstack down
      envstack down --purge       # delete its changes and its history for good
      envstack down --purge /gone/project/envstack.yaml
    """
    out = begin(ctx, json)
    calls.require_root()
    target = place.here() if stackfile is None else place.known_by(stackfile)
    with calls.started() if purge else calls.running() as client:
        if purge and not yes and out.can_ask():
            _confirm_purge(out)
        answer = calls.call(out, client, "env.down", **target, purge=purge)
        what = "deleted, with its history" if purge else "down"
        out.show(answer, [f"{out.paint('bold', text.escaped(answer['name']))} is {what}"])


def _confirm_purge(out: Output) -> None:
    """Raise EnvstackError unless the user says yes."""
    if not out.ask("This deletes the environment, its unsealed changes and its history. Go on?"):
        raise EnvstackError("nothing was deleted")


def status(ctx: typer.Context, json: Json = False) -> None:
    """Show this environment: mount, history, who is inside.

    Exit code 4 where it is not up.

    \b
    Examples:
      envstack status
      envstack status --json | jq -r .mount
    """
    out = begin(ctx, json)
    calls.require_root()
    target = place.here()
    with calls.running() as client:
        answer = calls.call(out, client, "env.status", **target)
    out.show(answer, _status_lines(answer, out.paint))
    if answer["state"] != "up":
        raise NotUp(f"environment {answer['name']!r} is {answer['state']}", "envstack up")


def _status_lines(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    state = paint(_STATES.get(row["state"], "red"), row["state"])
    yield f"{paint('bold', text.escaped(row['name']))}  {state}"
    layers = ", ".join(text.escaped(layer["name"]) for layer in row["layers"])
    facts = [
        ["reason", paint("red", text.escaped(row["reason"])) if row["reason"] else ""],
        ["mount", text.name(row["mount"])],
        ["stack", text.name(row["stack"])],
        ["layers", layers],
        ["head", _head(row["head"], paint)],
        ["inside", paint("dim", "nobody") if row["state"] == "up" and not row["holders"] else ""],
    ]
    shown = [["", paint("dim", word), fact] for word, fact in facts if fact]
    yield from text.columns(shown)
    if row["holders"]:
        yield f"  {paint('dim', 'inside')}"
        yield from (f"    {line}" for line in text.holders(row["holders"], paint))


def _head(head: dict[str, Any] | None, paint: Paint) -> str:
    if head is None:
        return f"base {paint('dim', '(no checkpoint)')}"
    tag = f" {paint('green', '(' + head['tag'] + ')')}" if head["tag"] else ""
    return f"{paint('yellow', head['id'][: text.ID_SHOWN])}{tag} {text.title(head['message'])}"


def ls(ctx: typer.Context, json: Json = False) -> None:
    """List all environments, wherever they are.

    \b
    Examples:
      envstack ls
    """
    out = begin(ctx, json)
    with calls.running() as client:
        rows = calls.call(out, client, "env.list")
    out.show(rows, _table(rows, out.paint))


def _table(rows: list[dict[str, Any]], paint: Paint) -> Iterator[str]:
    if not rows:
        yield paint("dim", "no environments")
        return
    header = [paint("dim", word) for word in ("NAME", "STATE", "HEAD", "MOUNT")]
    cells = [
        [
            paint("bold", text.escaped(row["name"])),
            paint(_STATES.get(row["state"], "red"), row["state"]),
            paint("yellow", row["head"]["id"][: text.ID_SHOWN]) if row["head"] else "base",
            text.name(row["mount"]),
        ]
        for row in rows
    ]
    yield from text.columns([header, *cells])
