"""Directories that are new, and may be watched already or not as yet.

What is made in a directory before it is watched is told by no event. So each new one is looked at
once more when it is known to be watched; until then it is young.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Set


class _Found(NamedTuple):
    ino: int
    at: float


class Young:
    """The young directories of an upper; times are those of time.monotonic."""

    def __init__(self, upper: bytes) -> None:
        self._upper = upper
        self._found: dict[bytes, _Found] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, directories: Iterable[tuple[bytes, int]], now: float) -> None:
        """Take directories in, each with its inode number."""
        for path, ino in directories:
            known = self._found.get(path)
            if known is None or known.ino != ino:
                self._found[path] = _Found(ino, now)

    def grown(self, watched: Set[int]) -> list[bytes]:
        """Take out and return those whose inode numbers are watched; forget those that are gone."""
        grown = self._take(lambda _, found: found.ino in watched)
        self._take(lambda path, found: inode_of_directory(self._upper, path) != found.ino)
        return grown

    def older(self, than: float) -> list[bytes]:
        """Take out and return those that were taken in before that time."""
        return self._take(lambda _, found: found.at < than)

    def clear(self) -> None:
        """Forget them all."""
        self._found.clear()

    def _take(self, is_meant: Callable[[bytes, _Found], bool]) -> list[bytes]:
        taken = [path for path, found in self._found.items() if is_meant(path, found)]
        for path in taken:
            del self._found[path]
        return taken


def inode_of_directory(upper: bytes, path: bytes) -> int | None:
    """Return the inode number of a directory of the upper, None where there is none (any more)."""
    try:
        status = os.lstat(os.path.join(upper, path))
    except OSError:
        return None
    return status.st_ino if stat.S_ISDIR(status.st_mode) else None
