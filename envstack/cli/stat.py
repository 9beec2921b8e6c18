"""How much changed: lines added and removed of each path, as numbers and as a histogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.cli import text
from envstack.cli.lines import replaced, split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from envstack.cli.sides import File, Pair
    from envstack.cli.text import Paint

_PLAIN_WIDTH = 80
_LEAST_GRAPH = 10


@dataclass(frozen=True, slots=True)
class Lines:
    """How many lines came and went."""

    added: int
    removed: int


@dataclass(frozen=True, slots=True)
class Stat:
    """A path as it is shown, with its lines, or with its sizes in bytes where it has none."""

    name: str
    lines: Lines | None
    old_size: int
    new_size: int


def lines_of(pair: Pair) -> Lines | None:
    """Return how many lines came and went; None where a side is binary, or neither has lines."""
    sides = [side for side in (pair.old, pair.new) if side and side.is_content]
    if not sides or any(side.text is None for side in sides):
        return None
    if pair.same:
        return Lines(0, 0)
    old, new = (_lines(side) for side in (pair.old, pair.new))
    if pair.old and pair.new and pair.old.kind != pair.new.kind:
        return Lines(len(new), len(old))
    spans = replaced(old, new)
    return Lines(
        sum(span.b_stop - span.b_start for span in spans),
        sum(span.a_stop - span.a_start for span in spans),
    )


def stat(name: str, pair: Pair, lines: Lines | None) -> Stat | None:
    """Return the row of a path; None where there is nothing to count: neither side has content."""
    if not any(side and side.is_content for side in (pair.old, pair.new)):
        return None
    return Stat(name, lines, _size(pair.old), _size(pair.new))


def _lines(side: File | None) -> list[bytes]:
    return split(side.text or b"") if side else []


def _size(side: File | None) -> int:
    return side.size if side else 0


def histogram(rows: Sequence[Stat], width: int | None, paint: Paint) -> Iterator[str]:
    """Yield a line a path, as `git diff --stat` has it, and the totals.

    `width` is that of a terminal, for which long names lose their beginning.
    """
    most = max((row.lines.added + row.lines.removed for row in rows if row.lines), default=0)
    digits = max([len(str(most)), *(3 for row in rows if row.lines is None)])
    room = (width or _PLAIN_WIDTH) - digits - len("  |  ")
    least = max([_LEAST_GRAPH, *(len(_sizes(row, text.uncoloured)) for row in rows)])
    shown = [_ending(row.name, max(room - least, 1)) if width else row.name for row in rows]
    names = max(map(text.width, shown), default=0)
    room = max(_LEAST_GRAPH, room - names)
    for row, name in zip(rows, shown, strict=True):
        padded = name + " " * (names - text.width(name))
        yield f" {padded} | {_measure(row, digits, min(1.0, room / most if most else 1), paint)}"
    yield _totals(rows)


def _ending(name: str, room: int) -> str:
    """Return as much of the end of a name as there is room for."""
    return text.cut(name[::-1], room)[::-1]


def _sizes(row: Stat, paint: Paint) -> str:
    """Return the sizes of what has no lines, else nothing."""
    if row.lines is not None:
        return ""
    return f"{paint('red', str(row.old_size))} -> {paint('green', str(row.new_size))} bytes"


def _measure(row: Stat, digits: int, scale: float, paint: Paint) -> str:
    if row.lines is None:
        return f"{'Bin':>{digits}} {_sizes(row, paint)}"
    added, removed = row.lines.added, row.lines.removed
    graph = paint("green", "+" * _scaled(added, scale)) + paint(
        "red", "-" * _scaled(removed, scale)
    )
    return f"{added + removed:>{digits}} {graph}".rstrip()


def _scaled(count: int, scale: float) -> int:
    """Return how long a bar is; what is not nothing is seen."""
    return max(1, int(count * scale)) if count else 0


def _totals(rows: Sequence[Stat]) -> str:
    added = sum(row.lines.added for row in rows if row.lines)
    removed = sum(row.lines.removed for row in rows if row.lines)
    parts = [f"{text.number_of(len(rows), 'file')} changed"]
    if added:
        parts.append(f"{text.number_of(added, 'insertion')}(+)")
    if removed:
        parts.append(f"{text.number_of(removed, 'deletion')}(-)")
    return " " + ", ".join(parts)
