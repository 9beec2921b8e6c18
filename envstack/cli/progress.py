"""How far a request has come, and what a command it runs says meanwhile, on standard error.

On a terminal one line, drawn anew in place, with a bar where the end is known; what is said scrolls
above it. Elsewhere a plain line when a phase begins, and never so many that they bury the rest.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from envstack.cli.text import escaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from envstack.rpc.messages import Progress

_WIPE = "\r\x1b[2K"
_REDRAW_SECONDS = 0.05
_BAR = 20
"""Columns of a whole bar."""

_BURST = 20
"""Plain lines at once; after that one a second."""

_LONGEST_LINE = 1 << 16
"""Characters said without a newline that are kept back."""


class ProgressLine:
    """Takes progress and words, and writes what is to be seen of them."""

    def __init__(self, write: Callable[[str], None], terminal: int | None) -> None:
        """`terminal` is the descriptor of the terminal that `write` writes to, if it is one."""
        self._write = write
        self._terminal = terminal
        self._latest: Progress | None = None
        self._is_drawn = False
        self._drawn_at = 0.0
        self._rest = ""
        self._credit = float(_BURST)
        self._credited_at = time.monotonic()

    def update(self, value: Progress) -> None:
        """Show how far it is."""
        is_phase = self._latest is None or self._latest.message != value.message
        self._latest = value
        if self._terminal is None:
            if is_phase and self._may_tell():
                self._write(f"{escaped(value.message)}\n")
        elif is_phase or time.monotonic() - self._drawn_at >= _REDRAW_SECONDS:
            self._draw(value)

    def stream(self, text: str) -> None:
        """Show what is said, a line at a time; the end of it waits for its newline."""
        *lines, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > _LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], ""
        if lines:
            self._say(lines)

    def clear(self) -> None:
        """Wipe the line away, and show what still waited: something else is to be written."""
        if self._rest:
            rest, self._rest = self._rest, ""
            self._say([rest])
        self._latest = None
        self._wipe()

    def _say(self, lines: list[str]) -> None:
        self._wipe()
        self._write("".join(f"{_shown(line)}\n" for line in lines))
        if self._latest is not None and self._terminal is not None:
            self._draw(self._latest)

    def _draw(self, value: Progress) -> None:
        assert self._terminal is not None
        width = os.get_terminal_size(self._terminal).columns or 80
        self._is_drawn = True  # first, because Ctrl-C may come in between
        self._write(_WIPE + _line(value)[: width - 1])
        self._drawn_at = time.monotonic()

    def _wipe(self) -> None:
        if self._is_drawn:
            self._is_drawn = False
            self._write(_WIPE)

    def _may_tell(self) -> bool:
        now = time.monotonic()
        self._credit = min(_BURST, self._credit + now - self._credited_at)
        self._credited_at = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True


def _line(value: Progress) -> str:
    message = escaped(value.message)
    if value.done is None:
        return message
    if not value.total:
        return f"{message} {value.done:,}"
    full = min(_BAR, _BAR * value.done // value.total)
    return f"{message} [{'#' * full}{'.' * (_BAR - full)}] {value.done:,} of {value.total:,}"


def _shown(line: str) -> str:
    """Return a line as it may be seen: of what was written over one another, the last."""
    last = line.rstrip("\r").rpartition("\r")[2]
    return "\t".join(map(escaped, last.split("\t")))
