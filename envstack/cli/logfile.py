"""Reading a log file line by line, also while it grows and is rotated (logging.handlers)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader


def last_lines(file: BufferedReader, count: int | None) -> list[str]:
    """Return the last `count` whole lines, all if it is None; `file` stands behind them then.

    A line without an end is one that is being written.
    """
    content = file.read()
    end = content.rfind(b"\n") + 1
    file.seek(end)
    lines = content[:end].split(b"\n")[:-1]
    return [
        _text(line) for line in (lines if count is None else lines[max(len(lines) - count, 0) :])
    ]


def following_lines(file: BufferedReader, pause: Callable[[], None]) -> Iterator[str]:
    """Yield each further line of `file`, and of every file that takes its place; without end.

    `pause` is called where there is nothing more for now, and ends it by raising.
    """
    yield from _until_replaced(file, pause)
    while True:
        with open(file.name, "rb") as successor:
            yield from _until_replaced(successor, pause)


def _until_replaced(file: BufferedReader, pause: Callable[[], None]) -> Iterator[str]:
    rest = b""
    is_final = False
    while not is_final:
        is_final = _is_replaced(file)  # before reading, because until then it may be written
        *whole, rest = (rest + file.read()).split(b"\n")
        yield from map(_text, whole)
        if not whole and not is_final:
            pause()


def _is_replaced(file: BufferedReader) -> bool:
    """Tell whether another file has its name, which comes after the last write to this one."""
    try:
        return not os.path.samestat(os.stat(file.name), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False  # renamed, and the next one is not there yet


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")
