"""Which lines of two texts differ.

Lines that occur once on either side hold the texts together (patience diff, as Bram Cohen described
it for Bazaar); what lies between is compared by the greedy algorithm of Myers ("An O(ND) difference
algorithm and its variations", 1986). The work has a bound: where it is spent, the rest counts as
replaced, which is true, if not short.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_STEPS = 1_500_000
"""Comparisons that Myers' algorithm may make for two texts: about half a second."""

_LONGEST_SCRIPT = 500
"""Lines that Myers' algorithm may insert and delete in one stretch; its memory is the square."""

_DEEPEST = 40
"""How often a stretch is divided by lines that are unique in it; each time costs its length."""


@dataclass(frozen=True, slots=True)
class Span:
    """Lines `a_start` to before `a_stop` of one text, `b_start` to before `b_stop` of the other."""

    a_start: int
    a_stop: int
    b_start: int
    b_stop: int


def split(text: bytes) -> list[bytes]:
    """Return the lines of `text`, each with its newline; the last may have none."""
    lines = text.split(b"\n")
    rest = lines.pop()
    return [line + b"\n" for line in lines] + ([rest] if rest else [])


def replaced(a: Sequence[bytes], b: Sequence[bytes]) -> list[Span]:
    """Return, in order, the spans of `a` that must be replaced by spans of `b` to get `b`.

    Between two of them there is at least one line that stays.
    """
    numbers: dict[bytes, int] = {}
    numbered = [[numbers.setdefault(line, len(numbers)) for line in lines] for lines in (a, b)]
    spans: list[Span] = []
    for span in _Comparison(*numbered).run():
        last = spans[-1] if spans else None
        if last and (last.a_stop, last.b_stop) == (span.a_start, span.b_start):
            spans[-1] = Span(last.a_start, span.a_stop, last.b_start, span.b_stop)
        else:
            spans.append(span)
    return spans


class _Comparison:
    """The comparison of two sequences of numbers, with the steps that are left to it."""

    def __init__(self, a: list[int], b: list[int]) -> None:
        self._a = a
        self._b = b
        self._steps = _STEPS

    def run(self) -> Iterator[Span]:
        """Yield what is replaced, in order; spans may touch."""
        todo = [(Span(0, len(self._a), 0, len(self._b)), 0)]
        while todo:
            whole, depth = todo.pop()
            span = self._without_ends(whole)
            if span.a_start == span.a_stop or span.b_start == span.b_stop:
                if span.a_start < span.a_stop or span.b_start < span.b_stop:
                    yield span
                continue
            pairs = self._anchors(span) if depth < _DEEPEST else []
            if pairs:
                todo += [(gap, depth + 1) for gap in reversed(list(_gaps(span, pairs)))]
            else:
                yield from _gaps(span, self._walk(span))

    def _without_ends(self, span: Span) -> Span:
        """Return `span` without the lines that both sides begin and end with."""
        a, b = self._a, self._b
        a_start, a_stop, b_start, b_stop = span.a_start, span.a_stop, span.b_start, span.b_stop
        while a_start < a_stop and b_start < b_stop and a[a_start] == b[b_start]:
            a_start, b_start = a_start + 1, b_start + 1
        while a_start < a_stop and b_start < b_stop and a[a_stop - 1] == b[b_stop - 1]:
            a_stop, b_stop = a_stop - 1, b_stop - 1
        return Span(a_start, a_stop, b_start, b_stop)

    def _anchors(self, span: Span) -> list[tuple[int, int]]:
        """Return lines that are unique on both sides, as many as stand in the same order."""
        a = self._a[span.a_start : span.a_stop]
        b = self._b[span.b_start : span.b_stop]
        in_a, in_b = Counter(a), Counter(b)
        place = {line: index for index, line in enumerate(b) if in_b[line] == in_a[line] == 1}
        pairs = [(index, place[line]) for index, line in enumerate(a) if line in place]
        return [(span.a_start + i, span.b_start + j) for i, j in _longest_rise(pairs)]

    def _walk(self, span: Span) -> list[tuple[int, int]]:
        """Return the lines that stay, by Myers; none where that would take too long."""
        furthest = {1: 0}
        rows: list[dict[int, int]] = []
        length, width = span.a_stop - span.a_start, span.b_stop - span.b_start
        for changes in range(min(length + width, _LONGEST_SCRIPT) + 1):
            rows.append(furthest)
            furthest = self._advance(span, furthest, changes)
            if self._steps < 0:
                return []
            if furthest.get(length - width, -1) >= length:
                return list(_way_back(span, rows))
        return []

    def _advance(self, span: Span, before: dict[int, int], changes: int) -> dict[int, int]:
        """Return how far along each diagonal one comes with one change more."""
        a, b = self._a, self._b
        length, width = span.a_stop - span.a_start, span.b_stop - span.b_start
        after: dict[int, int] = {}
        for diagonal in range(-changes, changes + 1, 2):
            begin, _ = _step(before, diagonal, changes)
            x, y = begin, begin - diagonal
            while x < length and y < width and a[span.a_start + x] == b[span.b_start + y]:
                x, y = x + 1, y + 1
            after[diagonal] = x
            self._steps -= 1 + x - begin
        return after


def _step(before: dict[int, int], diagonal: int, changes: int) -> tuple[int, bool]:
    """Return where a change leads to on a diagonal, and whether by going down: an insertion."""
    down = before.get(diagonal + 1, -1)
    right = before.get(diagonal - 1, -2) + 1
    is_down = diagonal == -changes or (diagonal != changes and right <= down)
    return (down if is_down else right), is_down


def _way_back(span: Span, rows: list[dict[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the lines that stay, in order, from how far each number of changes came."""
    x, y = span.a_stop - span.a_start, span.b_stop - span.b_start
    kept: list[tuple[int, int]] = []
    for changes in range(len(rows) - 1, -1, -1):
        before = rows[changes]
        diagonal = x - y
        begin, is_down = _step(before, diagonal, changes)
        while x > begin:
            x, y = x - 1, y - 1
            kept.append((span.a_start + x, span.b_start + y))
        x, y = (x, y - 1) if is_down else (x - 1, y)
    yield from reversed(kept)


def _gaps(span: Span, pairs: Sequence[tuple[int, int]]) -> Iterator[Span]:
    """Yield what lies before, between and behind the lines that stay; not where that is nothing."""
    a_start, b_start = span.a_start, span.b_start
    for a, b in [*pairs, (span.a_stop, span.b_stop)]:
        if a_start < a or b_start < b:
            yield Span(a_start, a, b_start, b)
        a_start, b_start = a + 1, b + 1


def _longest_rise(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the most of `pairs`, which rise in their first, that rise in their second too."""
    ends: list[int] = []  # of each length, the least second that a rise of it ends with
    last: list[int] = []  # of each length, which pair that is
    before: list[int] = []
    for index, (_, second) in enumerate(pairs):
        length = bisect_left(ends, second)
        before.append(last[length - 1] if length else -1)
        ends[length : length + 1] = [second]
        last[length : length + 1] = [index]
    found: list[tuple[int, int]] = []
    at = last[-1] if last else -1
    while at >= 0:
        found.append(pairs[at])
        at = before[at]
    return found[::-1]
