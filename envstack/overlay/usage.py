"""How much of a disk a tree takes: blocks, as du(1) counts them, hard links once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.overlay.descent import Descent, visit

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK = 512
"""Bytes in the unit of `st_blocks`, whatever the file system's own are (stat(2))."""


class Usage:
    """The bytes counted so far: right up to where counting was ended."""

    def __init__(self) -> None:
        self.bytes = 0
        self._linked: set[tuple[int, int]] = set()

    def add_tree(self, root: bytes, tick: Callable[[], None]) -> None:
        """Count what lies below `root`, itself included; what vanishes meanwhile is not counted.

        `tick` is called for every entry and may raise. Raises OSError.
        """
        with Descent([root]) as place:
            self._add(os.stat(place.fd(0)))
            visit(place, lambda: self._directory(place, tick))

    def _directory(self, place: Descent, tick: Callable[[], None]) -> list[bytes]:
        """Count the entries of a directory and return those that are directories."""
        directories: list[bytes] = []
        try:
            with os.scandir(place.fd(0)) as entries:
                for entry in entries:
                    tick()
                    self._entry(entry, directories)
        except FileNotFoundError:
            return []
        return directories

    def _entry(self, entry: os.DirEntry[str], directories: list[bytes]) -> None:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        self._add(status)
        if entry.is_dir(follow_symlinks=False):
            directories.append(os.fsencode(entry.name))

    def _add(self, status: os.stat_result) -> None:
        if status.st_nlink > 1:
            inode = status.st_dev, status.st_ino
            if inode in self._linked:
                return
            self._linked.add(inode)
        self.bytes += status.st_blocks * _BLOCK
