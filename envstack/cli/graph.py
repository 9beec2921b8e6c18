"""A history as a tree, drawn in text: newest first, each row's line leads down to its parent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Style:
    """The characters of a drawing: a row, the head's row, lines, and where one ends in another."""

    node: str
    head: str
    down: str
    across: str
    join: str
    end: str


ASCII = Style(node="o", head="*", down="|", across="-", join="+", end="'")
LINES = Style(node="○", head="●", down="│", across="─", join="├", end="╯")


def style(encoding: str) -> Style:
    """Return lines where `encoding` has them, else ASCII."""
    try:
        "".join((LINES.node, LINES.head, LINES.down, LINES.end)).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return LINES


@dataclass(frozen=True, slots=True)
class Node:
    """A row of the history: its name, its parent's, and whether it is the head."""

    name: str
    parent: str | None
    is_head: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """One line of the drawing: a character a column, two columns of text each.

    `node` is whose row it is, None for a line where two branches meet.
    """

    node: Node | None
    cells: tuple[str, ...]


def draw(nodes: Iterable[Node], style: Style) -> Iterator[Picture]:
    """Yield the drawing of `nodes`, children before their parents.

    A column holds the name of the row that its line leads to. No two lead to the same: where they
    would, the right one ends in the left one at once, and its place is free for another branch.
    """
    columns: list[str | None] = []
    for node in nodes:
        at = _place(columns, node.name)
        cells = [_cell(style, name) for name in columns]
        cells[at] = style.head if node.is_head else style.node
        yield Picture(node, _spaced(cells))
        others = [*columns[:at], None, *columns[at + 1 :]]
        columns[at] = node.parent
        if node.parent is not None and node.parent in others:
            left, right = sorted((at, others.index(node.parent)))
            columns[right] = None
            yield Picture(None, _meeting(style, columns, left, right))
        while columns and columns[-1] is None:
            columns.pop()


def _place(columns: list[str | None], name: str) -> int:
    """Return the column that leads to `name`, else a free one, which is made if need be."""
    for wanted in (name, None):
        if wanted in columns:
            return columns.index(wanted)
    columns.append(name)
    return len(columns) - 1


def _cell(style: Style, name: str | None) -> str:
    return style.down if name is not None else " "


def _spaced(cells: Sequence[str]) -> tuple[str, ...]:
    return (*(f"{cell} " for cell in cells[:-1]), cells[-1])


def _meeting(style: Style, columns: Sequence[str | None], left: int, right: int) -> tuple[str, ...]:
    """Return the line on which the branch in column `right` ends in the one in `left`."""
    signs = [_cell(style, name) for name in columns]
    signs[left], signs[right] = style.join, style.end
    for between in range(left + 1, right):
        signs[between] = style.down if columns[between] is not None else style.across
    cells = _spaced(signs)
    led = (f"{sign}{style.across}" for sign in signs[left:right])
    return (*cells[:left], *led, *cells[right:])
