"""`checkpoint`, `rollback`, `log` and `diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import Json, begin, check_mode, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.output import Output
    from envstack.cli.text import Paint

_WIDE = 100
"""Columns of a terminal that has room for a date besides an age."""

_SIGNS = {"added": ("A", "green"), "modified": ("M", "yellow"), "deleted": ("D", "red")}

_Message = Annotated[str, typer.Option("-m", "--message", metavar="MSG", help="What it is.")]
_Tag = Annotated[
    str | None,
    typer.Option("--tag", metavar="TAG", help="A name for it.", show_default=False),
]
_SealMode = Annotated[
    str, typer.Option("--mode", metavar="auto|rotate", help="How to seal.", show_default=False)
]
_BackMode = Annotated[
    str, typer.Option("--mode", metavar="auto|swap", help="How to go back.", show_default=False)
]
_Force = Annotated[
    bool,
    typer.Option("--force", help="Although somebody is inside."),
]
_Sync = Annotated[bool, typer.Option("--sync", help="Return when it would outlive a power cut.")]
_Rev = Annotated[str, typer.Argument(metavar="REV", hidden=True)]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, no more.")]
_Discard = Annotated[bool, typer.Option("--discard", help="Throw unsealed changes away.")]
_From = Annotated[str | None, typer.Argument(metavar="A", hidden=True)]
_To = Annotated[str | None, typer.Argument(metavar="B", hidden=True)]


def checkpoint(
    ctx: typer.Context,
    message: _Message = "",
    tag: _Tag = None,
    mode: _SealMode = "auto",
    sync: _Sync = False,
    force: _Force = False,
    json: Json = False,
) -> None:
    """Remember the merged tree as it is now.

    Nothing is copied: the time it takes does not grow with the tree. Nobody may be inside; with
    --force, those who only look are left behind in the old tree, which is read-only from then on.

    \b
    Examples:
      envstack checkpoint -m "before the upgrade"
      envstack checkpoint --tag v1
    """
    out = begin(ctx, json)
    check_mode(mode, ("auto", "rotate"), not_yet="live")
    params = {"tag": tag, "mode": mode, "sync": sync, "force": force}
    answer = _ask(out, "env.checkpoint", message=text_of(message), **params)
    out.show(answer, _sealed(answer, out.paint))


def _sealed(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    tag = f" {paint('green', '(' + row['tag'] + ')')}" if row["tag"] else ""
    took = paint("dim", f"  {row['duration_ms']:.1f} ms")
    title = f" {text.title(row['message'])}" if row["message"] else ""
    yield f"checkpoint {_id(row['id'], paint)}{tag}{title}{took}"
    yield from _left_behind(row["stranded"], paint)


def rollback(
    ctx: typer.Context,
    rev: _Rev = "@",
    mode: _BackMode = "auto",
    dry_run: _DryRun = False,
    discard: _Discard = False,
    force: _Force = False,
    json: Json = False,
) -> None:
    """Make the merged tree what it was at a checkpoint.

    REV is the head (@) if not given; or @~N, a tag, an id or its beginning, base.

    Changes since the last checkpoint are sealed first, so that they can be brought back. Nobody
    may be inside; with --force, those who only look are left behind in the old tree. A checkpoint
    that a power cut harmed takes --force as well.

    \b
    Examples:
      envstack rollback                   # to the head
      envstack rollback @~2               # two checkpoints before it
      envstack rollback base --dry-run    # what would it change?
    """
    out = begin(ctx, json)
    check_mode(mode, ("auto", "swap"), not_yet="in-place")
    params = {"rev": rev, "mode": mode, "discard": discard, "force": force, "dry_run": dry_run}
    answer = _ask(out, "env.rollback", **params)
    if dry_run:
        out.show(answer, _changes(answer["paths"], out.paint))
    else:
        out.show(answer, _rolled_back(answer, out.paint))


def _rolled_back(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    took = paint("dim", f"  {row['duration_ms']:.1f} ms")
    yield f"rolled back to {_id(row['to'], paint)}{took}"
    if row["saved"]:
        saved = _id(row["saved"], paint)
        yield f"what was not sealed is kept as {saved} (envstack rollback {saved})"
    yield from _left_behind(row["stranded"], paint)


def _left_behind(rows: list[dict[str, Any]], paint: Paint) -> Iterator[str]:
    if rows:
        yield paint("yellow", "left behind in the old tree, which is read-only now:")
        yield from text.holders(rows, paint)


def log(ctx: typer.Context, json: Json = False) -> None:
    """List the checkpoints, newest first; * marks the head.

    \b
    Examples:
      envstack log
      envstack log --json | jq -r '.[].id'
    """
    out = begin(ctx, json)
    rows = _ask(out, "env.log")
    out.show(rows, _log_lines(rows, out))


def _log_lines(rows: list[dict[str, Any]], out: Output) -> Iterator[str]:
    from datetime import UTC, datetime

    paint = out.paint
    if not rows:
        yield paint("dim", "no checkpoints: the merged tree stands on the stack alone")
        return
    now = datetime.now(UTC)
    has_room = out.width is None or out.width >= _WIDE
    cells = []
    for row, below in zip(rows, [*rows[1:], None], strict=True):
        made = datetime.fromisoformat(row["created_at"])
        date = [paint("dim", made.astimezone().strftime("%Y-%m-%d %H:%M"))] if has_room else []
        cells.append(
            [
                paint("cyan", "*") if row["head"] else " ",
                _id(row["id"], paint),
                *date,
                paint("dim", text.age((now - made).total_seconds())),
                text.counts(row["changes"], paint),
                _words(row, below, paint),
            ]
        )
    if not any(row["head"] for row in rows):
        rest = [""] * (len(cells[0]) - 3)
        cells.append([paint("cyan", "*"), _id("base", paint), *rest, "the stack alone"])
    yield from text.columns(cells)


def _words(row: dict[str, Any], below: dict[str, Any] | None, paint: Paint) -> str:
    """Return tag, message, and what is out of the ordinary: another parent than the row below."""
    tag = paint("green", f"({row['tag']})") if row["tag"] else ""
    parent = row["parent"]
    is_straight = parent == (below["id"] if below else None)
    shown = parent[: text.ID_SHOWN] if parent else "base"
    notes = ["" if is_straight else f"[on {shown}]", "" if row["sealed"] else "[not sealed yet]"]
    damage = paint("red", "[damaged]") if row["damaged"] else ""
    words = [tag, text.title(row["message"]), damage, *(paint("dim", note) for note in notes)]
    return " ".join(word for word in words if word)


def diff(ctx: typer.Context, a: _From = None, b: _To = None, json: Json = False) -> None:
    """Show what changed from A to B: A added, M modified, D deleted.

    A is the head if not given, B the merged tree.

    \b
    Examples:
      envstack diff             # since the last checkpoint
      envstack diff base        # since the beginning
      envstack diff @~1 @       # what the last checkpoint holds
    """
    out = begin(ctx, json)
    rows = _ask(out, "env.diff", a=a, b=b)
    out.show(rows, _changes(rows, out.paint))


def _changes(rows: list[dict[str, Any]], paint: Paint) -> Iterator[str]:
    totals = dict.fromkeys(_SIGNS, 0)
    for row in rows:
        totals[row["change"]] += 1
        sign, colour = _SIGNS[row["change"]]
        suffix = "/" if row["kind"] == "dir" else ""
        yield paint(colour, f"{sign} {text.path_of(row, suffix)}")
    summary = ", ".join(f"{count:,} {change}" for change, count in totals.items() if count)
    yield paint("dim", summary or "no changes")


def _ask(out: Output, method: str, **params: Any) -> Any:
    """Ask the daemon that runs about the environment of the current directory."""
    calls.require_root()
    target = place.here()
    with calls.running() as client:
        return calls.call(out, client, method, **target, **params)


def _id(value: str, paint: Paint) -> str:
    """Return an id, shortened, or `base`."""
    return paint("yellow", value[: text.ID_SHOWN])
