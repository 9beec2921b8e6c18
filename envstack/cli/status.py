"""`status` and `ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import Json, begin
from envstack.errors import EnvstackError, NotFound, NotUp, StateError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.output import Output
    from envstack.cli.text import Paint

_NOTHING_TO_SHOW = (NotFound.exit_code, StateError.exit_code, Unsupported.exit_code)

_BEFORE_FACTS = len("  changes  ")
"""Columns before each fact of `status`."""

_Drift = Annotated[bool, typer.Option("--drift", help="Look whether directories below it changed.")]
_Short = Annotated[bool, typer.Option("--short", help="One line, for a prompt.")]


def status(
    ctx: typer.Context, short: _Short = False, drift: _Drift = False, json: Json = False
) -> None:
    """Show this environment: mount, history, who is inside.

    Exit code 4 where it is not up. --short is quick and quiet: NAME@HEAD, and a + where changes may
    not be sealed; nothing at all where there is no environment that is up.

    \b
    Examples:
      envstack status
      envstack status --drift     # did directories of the stack change since it is up?
      envstack status --json | jq -r .mount
      PS1='$(envstack status --short) $ '
    """
    out = begin(ctx, json)
    if short and not out.as_json:
        _show_short(out)
        return
    if short:
        answer = calls.ask(out, place.here(), "env.glance")
    else:
        answer = calls.ask(out, place.here(), "env.status", drift=drift)
    lines = [*_status_lines(answer, out), *_drift_lines(answer["drift"], drift, out.paint)]
    out.show(answer, lines)
    _require_up(answer)


def _show_short(out: Output) -> None:
    try:
        answer = calls.ask(out, place.here(), "env.glance")
        _require_up(answer)
    except EnvstackError as error:  # of this program, or what the daemon answered
        if error.exit_code not in _NOTHING_TO_SHOW:
            raise
        raise typer.Exit(error.exit_code) from None
    out.show(answer, [_prompt(answer, out.paint)])


def _require_up(row: dict[str, Any]) -> None:
    if row["state"] != "up":
        way_out = row["hint"] or "envstack up"
        raise NotUp(f"environment {row['name']!r} is {row['state']}", way_out)


def _prompt(row: dict[str, Any], paint: Paint) -> str:
    head = row["head"]
    where = (head["tag"] or head["id"][: text.ID_SHOWN]) if head else "base"
    dirty = f" {paint('yellow', '+')}" if row["dirty"] else ""
    return f"{paint('bold', text.escaped(row['name']))}@{paint('yellow', where)}{dirty}"


def _status_lines(row: dict[str, Any], out: Output) -> Iterator[str]:
    paint = out.paint
    state = text.state(row["state"], paint)
    yield f"{paint('bold', text.escaped(row['name']))}  {state}"
    layers = ", ".join(text.escaped(layer["name"]) for layer in row["layers"])
    facts = [
        ["reason", paint("red", text.escaped(row["reason"])) if row["reason"] else ""],
        ["mount", text.name(row["mount"])],
        ["stack", text.name(row["stack"])],
        ["layers", layers],
        ["head", _head(row["head"], out)],
        ["changes", _changes(row, paint)],
        ["inside", paint("dim", "nobody") if row["state"] == "up" and not row["holders"] else ""],
    ]
    shown = [["", paint("dim", word), fact] for word, fact in facts if fact]
    yield from out.columns(shown)
    if row["holders"]:
        yield f"  {paint('dim', 'inside')}"
        yield from (f"    {line}" for line in text.holders(row["holders"], paint))


def _drift_lines(
    rows: list[dict[str, Any]] | None, was_asked_for: bool, paint: Paint
) -> Iterator[str]:
    if was_asked_for and rows == []:
        yield paint("dim", "nothing changed below the mount")
    yield from text.drift(rows, paint)


def _head(head: dict[str, Any] | None, out: Output) -> str:
    if head is None:
        return f"base {out.paint('dim', '(no checkpoint)')}"
    tag = f" {out.paint('green', '(' + head['tag'] + ')')}" if head["tag"] else ""
    room = None if out.room is None else out.room - _BEFORE_FACTS
    title = text.title(head["message"])
    return text.titled(f"{text.revision(head['id'], out.paint)}{tag}", title, "", room)


def _changes(row: dict[str, Any], paint: Paint) -> str:
    """Return whether there may be changes that no checkpoint holds; to know takes a diff."""
    if not row["dirty"]:
        return paint("dim", "all sealed")
    where = " (envstack diff)" if row["state"] == "up" else ""
    return paint("yellow", "may not be sealed") + where


def ls(ctx: typer.Context, json: Json = False) -> None:
    """List all environments, and what they take on disk.

    SIZE is that of an environment's own layers: an ellipsis while it is still being counted, and
    ≥ where it is at least so much.

    \b
    Examples:
      envstack ls
      envstack ls --json | jq -r '.[] | select(.stack_exists | not) | .stack'
    """
    out = begin(ctx, json)
    with calls.running() as client:
        rows = calls.call(out, client, "env.list")
    out.show(rows, _table(rows, out))


def _table(rows: list[dict[str, Any]], out: Output) -> Iterator[str]:
    paint = out.paint
    if not rows:
        yield paint("dim", "no environments")
        yield paint("dim", "next: envstack init in a project, then envstack up")
        return
    header = [paint("dim", word) for word in ("NAME", "STATE", "HEAD", "SIZE", "MOUNT")]
    cells = [
        [
            paint("bold", text.escaped(row["name"])),
            text.state(row["state"], paint),
            paint("yellow", row["head"]["id"][: text.ID_SHOWN]) if row["head"] else "base",
            text.size(row),
            text.name(row["mount"]),
        ]
        for row in rows
    ]
    yield from out.columns([header, *cells])
    for row in rows:
        if not row["stack_exists"]:
            yield paint("yellow", _gone(row))


def _gone(row: dict[str, Any]) -> str:
    """Tell what is gone of an environment, and the ways out; the one that loses nothing first."""
    name, stack = text.escaped(row["name"]), text.name(row["stack"])
    told, first = (
        (f"the stack file of {name} is gone", "put it back")
        if row["project_exists"]
        else (f"the project of {name} was moved or deleted", "move it back")
    )
    last = f"envstack down {stack}"
    if row["state"] == "down":
        last = f"delete its history: envstack down --purge {stack}"
    return f"{told} ({first}, or: {last})"
