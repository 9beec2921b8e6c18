"""When things may be done again: parts of the time, and pauses that grow. Seconds throughout.

Nothing waits here: `due` is the time (time.monotonic) to wait for.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Share:
    """Something that may have `part` of the time, and a pause of `least` seconds after each go."""

    def __init__(self, part: float, least: float = 0.0) -> None:
        self._factor = 1 / part - 1
        self._least = least
        self.due = -inf

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Time what is done in the context, whether it succeeds or not."""
        began = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            self.due = now + max(self._least, (now - began) * self._factor)


class Pauses:
    """Pauses between tries, each twice as long as the one before; none before the first try."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self.reset()

    def reset(self) -> None:
        """Begin with the first pause again, and let the next try be made at once."""
        self.due = -inf
        self._next = self._first

    def grow(self) -> None:
        """Begin a pause now."""
        self.due = time.monotonic() + self._next
        self._next = min(self._next * 2, self._longest)


class Patrols:
    """When to look for what no event tells: some time after somebody opened or closed something.

    The patrol opens files itself, which is heard like everything else. It is followed by another,
    for somebody may have done the same just then, but each time after twice the pause.
    """

    def __init__(self, every: float, longest: float) -> None:
        self._pauses = every, longest
        self._pause = every
        self._last = -inf
        self.due = inf

    def heard(self) -> None:
        """Take note that somebody did something."""
        self._pause = self._pauses[0]
        self.due = min(self.due, self._last + self._pause)

    def heard_ourselves(self) -> None:
        """Take note of what was our own doing, and may have been somebody else's too."""
        if self.due == inf:
            self._pause = min(self._pause * 2, self._pauses[1])
            self.due = self._last + self._pause

    def done(self, *, has_more: bool) -> None:
        """Take note of the end of a patrol; with more to do it goes on, whoever was heard."""
        self._last = time.monotonic()
        self.due = self._last + self._pauses[0] if has_more else inf
