"""Which lines of two texts differ, as the standard library's difflib finds it.

That may take time that grows with the cube of the length, so it has a bound: where the work is
spent, the rest counts as replaced, which is true, if not short.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import Match, SequenceMatcher
from itertools import accumulate, takewhile
from operator import eq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WORK = 5_000_000
"""Pairs of equal lines that may be looked at for two texts: about half a second."""

_LINE = 4
"""Pairs that take as long as to go over a line."""


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
    head = _alike(a, b)
    a, b = a[head:], b[head:]
    tail = _alike(reversed(a), reversed(b))
    matcher = _Bounded(a[: len(a) - tail], b[: len(b) - tail])
    return [
        Span(head + a_start, head + a_stop, head + b_start, head + b_stop)
        for tag, a_start, a_stop, b_start, b_stop in matcher.get_opcodes()
        if tag != "equal"
    ]


def _alike(a: Iterable[bytes], b: Iterable[bytes]) -> int:
    """Return how many lines two texts begin with in common."""
    return sum(takewhile(bool, map(eq, a, b)))


class _Bounded(SequenceMatcher[bytes]):
    """A matcher that finds nothing more once its work is spent."""

    b2j: dict[bytes, list[int]]
    """Where each line of `b` is found: an attribute that difflib documents."""

    def __init__(self, a: Sequence[bytes], b: Sequence[bytes]) -> None:
        super().__init__(None, a, b, autojunk=False)
        self._work = self._until_each(a)
        if self._work[-1] > _WORK // 10:
            # Lines that are all over a long text then only lengthen what others begin.
            super().__init__(None, a, b, autojunk=True)
            self._work = self._until_each(a)
        self._left = _WORK

    def _until_each(self, lines: Sequence[bytes]) -> list[int]:
        """Return the work of looking for the lines before each, and last for all of them."""
        costs = (_LINE + len(self.b2j.get(line, ())) for line in lines)
        return list(accumulate(costs, initial=0))

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> Match:
        """Return the longest stretch of equal lines; an empty one where the work is spent."""
        work = self._work[-1 if ahi is None else ahi] - self._work[alo]
        if work > self._left:
            return Match(alo, blo, 0)
        self._left -= work
        return super().find_longest_match(alo, ahi, blo, bhi)
