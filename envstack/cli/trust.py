"""`trust`: what of which stack files may run and be fetched; the question before the first time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import Json, begin
from envstack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.output import Output
    from envstack.client import Client, RemoteError

_StackFile = Annotated[str | None, typer.Argument(metavar="STACKFILE", hidden=True)]
_List = Annotated[bool, typer.Option("--list", help="List what is trusted.")]
_Revoke = Annotated[bool, typer.Option("--revoke", help="Trust this stack file no more.")]


def trust(
    ctx: typer.Context,
    stackfile: _StackFile = None,
    listed: _List = False,
    revoke: _Revoke = False,
    json: Json = False,
) -> None:
    """Let a stack file run its commands and fetch its archives.

    A stack file from elsewhere can do whatever you can: read it first. A change of its commands
    or addresses asks again.

    \b
    Examples:
      envstack trust
      envstack trust --list
      envstack trust --revoke stacks/python/envstack.yaml
    """
    out = begin(ctx, json)
    calls.require_root()
    if listed and (revoke or stackfile is not None):
        raise UsageError("--list stands alone", "envstack trust --list")
    if listed:
        with calls.started() as client:
            rows = calls.call(out, client, "trust.list")
        out.show(rows, _table(out, rows))
        return
    target = place.here() if stackfile is None else place.known_by(stackfile)
    with calls.started() as client:
        stack = calls.stack_of(out, client, target)
        if revoke:
            answer = calls.call(out, client, "trust.revoke", stack=stack)
            out.show(answer, [f"{text.name(stack)} is trusted no more"])
        else:
            answer = calls.call(out, client, "trust.add", stack=stack)
            out.show(answer, _trusted(out, answer))


def _table(out: Output, rows: list[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        yield out.paint("dim", "nothing is trusted")
        return
    header = [out.paint("dim", word) for word in ("SINCE", "DIGEST", "STACK FILE")]
    cells = [
        [row["at"][:16].replace("T", " "), row["digest"][: text.ID_SHOWN], text.name(row["stack"])]
        for row in rows
    ]
    yield from text.columns([header, *cells])


def _trusted(out: Output, answer: dict[str, Any]) -> Iterator[str]:
    verbs = _verbs(answer)
    if not verbs:
        yield f"{text.name(answer['stack'])} runs no commands"
        return
    yield f"{text.name(answer['stack'])} may {' and '.join(verbs)}:"
    yield from text.terms(answer, out.paint)


def up_with_consent(out: Output, client: Client, **params: Any) -> Any:
    """Return the answer to `env.up`; ask at a terminal where it would run what nobody trusts."""
    from envstack.client import RemoteError

    try:
        return calls.call(out, client, "env.up", **params)
    except RemoteError as error:
        if error.kind != "untrusted" or not out.can_ask():
            raise
        _ask(out, error)
        return calls.call(out, client, "env.up", **params, consent=error.data["digest"])


def _ask(out: Output, error: RemoteError) -> None:
    """Show what would run; raise the error, its commands left out, unless the user says yes."""
    from envstack.client import RemoteError

    verbs = _verbs(error.data)
    what = {"run": "runs these commands", "fetch": "fetches these archives"}
    asked = " and ".join(what[verb] for verb in verbs)
    out.tell(f"{text.name(error.data['stack'])} {asked}:")
    for line in text.terms(error.data, out.paint_errors):
        out.tell(line)
    doing = " and ".join(verbs).capitalize()
    if not out.ask(f"{doing} them, now and whenever they are needed?"):
        raise RemoteError(error.message, {**error.data, "commands": [], "addresses": []})


def _verbs(terms: dict[str, Any]) -> list[str]:
    """Return what a stack file asks to do."""
    return [
        verb
        for verb, asked in (("run", terms["commands"]), ("fetch", terms.get("addresses")))
        if asked
    ]
