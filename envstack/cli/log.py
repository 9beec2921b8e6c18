"""`log`: the history, as a list or as a tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import Json, begin
from envstack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.graph import Picture
    from envstack.cli.output import Output
    from envstack.cli.text import Paint

    Row = dict[str, Any]

Words = tuple[str, str, str]
"""What stands before a title, the title, and what stands behind it."""

_BASE = "base"
_ON_BASE: Words = "the stack alone", "", ""
_NO_WORDS: Words = "", "", ""
_WIDE = 100
"""Columns of a terminal that has room for a date besides an age."""

_BRANCHES = ("red", "green", "yellow", "cyan")

_Graph = Annotated[bool, typer.Option("--graph", help="Draw the history as a tree.")]
_Number = Annotated[
    str | None, typer.Option("-n", metavar="N", help="The newest N alone.", show_default=False)
]


def log(
    ctx: typer.Context, graph: _Graph = False, number: _Number = None, json: Json = False
) -> None:
    """List the checkpoints, newest first; * marks the head.

    \b
    Examples:
      envstack log
      envstack log --graph -n 20
      envstack log --json | jq -r '.[].id'
    """
    out = begin(ctx, json)
    most = None if number is None else _count(number)
    rows = calls.ask(out, place.here(), "env.log")
    shown = rows[:most]
    if not rows:
        out.show(rows, _nothing(out.paint))
    elif graph:
        out.show(shown, _tree(shown, out, whole=len(shown) == len(rows)))
    else:
        out.show(shown, _list(rows, len(shown), out))


def _count(number: str) -> int:
    if not number.isdecimal() or len(number) > 9:
        raise UsageError(f"-n takes a number, not {number!r}", "envstack log -n 10")
    return int(number)


def _nothing(paint: Paint) -> Iterator[str]:
    yield paint("dim", "no checkpoints: the merged tree stands on the stack alone")
    yield paint("dim", 'next: envstack checkpoint -m "what works"')


def _list(rows: list[Row], count: int, out: Output) -> Iterator[str]:
    """Yield a line for each of the first `count` rows."""
    facts = _Facts(out)
    cells, words = [], []
    for row, below in zip(rows[:count], [*rows[1:], None][:count], strict=True):
        cells.append([out.paint("cyan", "*") if row["head"] else " ", *facts.of(row)])
        words.append(_words(row, _astray(row, below), out.paint))
    if count == len(rows) and _stands_on_base(rows):
        cells.append([out.paint("cyan", "*"), *facts.of_base()])
        words.append(_ON_BASE)
    return _beside(cells, words, out)


def _tree(rows: list[Row], out: Output, *, whole: bool) -> Iterator[str]:
    """Yield the drawing with a row's facts beside it; the stack alone is where all begins."""
    from envstack.cli.graph import Node, draw, style

    facts = _Facts(out)
    by_name = {row["id"]: row for row in rows}
    nodes = [Node(row["id"], row["parent"] or _BASE, row["head"]) for row in rows]
    if whole:
        nodes.append(Node(_BASE, None, _stands_on_base(rows)))
    cells, words = [], []
    for picture in draw(nodes, style(out.encoding)):
        drawn = _coloured(picture, out.paint)
        if picture.node is None:
            cells.append([drawn, *facts.none()])
            words.append(_NO_WORDS)
        elif picture.node.name == _BASE:
            cells.append([drawn, *facts.of_base()])
            words.append(_ON_BASE)
        else:
            row = by_name[picture.node.name]
            cells.append([drawn, *facts.of(row)])
            words.append(_words(row, "", out.paint))
    return _beside(cells, words, out)


def _beside(cells: list[list[str]], words: list[Words], out: Output) -> Iterator[str]:
    """Yield a line a row: its cells in columns, then its words, which a terminal has room for."""
    lines = list(out.columns(cells))
    at = max(map(text.width, lines)) + 2
    room = None if out.room is None else out.room - at
    for line, (before, title, after) in zip(lines, words, strict=True):
        padding = " " * (at - text.width(line))
        yield f"{line}{padding}{text.titled(before, title, after, room)}".rstrip()


def _stands_on_base(rows: list[Row]) -> bool:
    return not any(row["head"] for row in rows)


def _coloured(picture: Picture, paint: Paint) -> str:
    """Return a line of the drawing, each branch in a colour of its own."""
    cells = enumerate(picture.cells)
    return "".join(paint(_BRANCHES[column % len(_BRANCHES)], cell) for column, cell in cells)


class _Facts:
    """The columns of a row: its id, when it was made, what it changed."""

    def __init__(self, out: Output) -> None:
        # Late: every command imports this module.
        from datetime import UTC, datetime

        self._read = datetime.fromisoformat
        self._paint = out.paint
        self._now = datetime.now(UTC)
        self._has_room = out.width is None or out.width >= _WIDE

    def of(self, row: Row) -> list[str]:
        """Return the columns of a checkpoint."""
        paint = self._paint
        made = self._read(row["created_at"])
        date = made.astimezone().strftime("%Y-%m-%d %H:%M")
        return [
            text.revision(row["id"], paint),
            *([paint("dim", date)] if self._has_room else []),
            paint("dim", text.age((self._now - made).total_seconds())),
            text.counts(row["changes"], paint),
        ]

    def of_base(self) -> list[str]:
        """Return the columns of the stack alone."""
        return [text.revision(_BASE, self._paint), *self.none()[1:]]

    def none(self) -> list[str]:
        """Return the columns of nothing."""
        return [""] * (4 if self._has_room else 3)


def _astray(row: Row, below: Row | None) -> str:
    """Return what the checkpoint stands on where that is not the row below it."""
    parent = row["parent"]
    if parent == (below["id"] if below else None):
        return ""
    return f"[on {parent[: text.ID_SHOWN] if parent else _BASE}]"


def _words(row: Row, astray: str, paint: Paint) -> Words:
    """Return tag, title, and what is out of the ordinary."""
    tag = paint("green", f"({row['tag']})") if row["tag"] else ""
    notes = [astray, "" if row["sealed"] else "[not sealed yet]"]
    damage = paint("red", "[damaged]") if row["damaged"] else ""
    rest = " ".join(note for note in (damage, *(paint("dim", note) for note in notes)) if note)
    return tag, text.title(row["message"]), rest
