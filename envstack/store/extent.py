"""How much a tree holds: what is compared after a power cut."""

from __future__ import annotations

import os
import stat

from envstack.model import Extent
from envstack.overlay.descent import Descent, visit


def measure(tree: bytes) -> Extent:
    """Return how many entries lie below `tree` and how many bytes, a file of many names once.

    The tree may be of any depth, and must not change meanwhile. Raises OSError.
    """
    census = _Census()
    with Descent([tree]) as place:
        visit(place, lambda: census.take(place.fd(0)))
    return Extent(census.files, census.bytes)


class _Census:
    """Counts directory by directory."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        self._linked: set[int] = set()

    def take(self, directory: int) -> list[bytes]:
        """Count what is in an open directory, and return the names of the directories in it."""
        below = []
        with os.scandir(directory) as entries:
            for entry in entries:
                self.files += 1
                if entry.is_dir(follow_symlinks=False):
                    below.append(os.fsencode(entry.name))
                else:
                    self._add(entry.stat(follow_symlinks=False))
        return below

    def _add(self, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode) and not self._was_seen(status):
            self.bytes += status.st_size

    def _was_seen(self, status: os.stat_result) -> bool:
        if status.st_nlink == 1:
            return False
        seen = status.st_ino in self._linked
        self._linked.add(status.st_ino)
        return seen
