"""One message a line: bytes as they arrive become lines, within a bound.

Knows neither sockets nor JSON, and so serves blocking and asynchronous readers alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class LineTooLongError(Exception):
    """A line exceeds the bound; where the next one starts is not known."""


class Lines:
    """Cuts a stream into lines of at most `limit` bytes, their newline not counted."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take `data` and yield the lines that are whole by now, without their newline.

        Raises LineTooLongError after the lines before the one that is.
        """
        searched = len(self._pending)
        self._pending += data
        while (end := self._pending.find(b"\n", searched)) >= 0:
            self._check(end)
            line = bytes(self._pending[:end])
            del self._pending[: end + 1]
            searched = 0
            yield line
        self._check(len(self._pending))

    def _check(self, length: int) -> None:
        if self._limit is not None and length > self._limit:
            raise LineTooLongError
