"""What was seen of a tree that others live in, so that nothing is done to what changed since.

A tree is looked at through its mount, by names in open directories alone.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envstack.overlay.descent import Descent

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    Sights = Mapping[bytes, os.stat_result | None]

_TREE = 0
"""The tree that is looked at is the first of a descent's."""


@dataclass(frozen=True, slots=True)
class Care:
    """What is not to be touched: what is in `kept`, and what looks otherwise than in `seen`."""

    kept: Container[bytes] = frozenset()
    seen: Sights = field(default_factory=dict)

    def allows(self, path: bytes, status: os.stat_result | None) -> bool:
        """Tell whether a path, which is `status` now, may be changed."""
        if path in self.kept:
            return False
        if path not in self.seen or status is None:
            return True  # nothing is lost where there is nothing
        seen = self.seen[path]
        return seen is not None and _is_still(seen, status)


def _is_still(seen: os.stat_result, now: os.stat_result) -> bool:
    """Tell whether an entry is what it was; of a directory, that it is one."""
    if stat.S_ISDIR(seen.st_mode):
        return stat.S_ISDIR(now.st_mode)
    # What is done to one name of a file changes the others too.
    is_alone = seen.st_nlink == 1
    return _lasting(seen) == _lasting(now) and (not is_alone or seen.st_ctime_ns == now.st_ctime_ns)


def _lasting(status: os.stat_result) -> tuple[int, int, int, int]:
    kind = stat.S_IFMT(status.st_mode)
    return kind, status.st_ino, status.st_size, status.st_mtime_ns


def look(tree: bytes, paths: Iterable[bytes]) -> Sights:
    """Return what lstat(2) says of each of `paths` in the directory `tree`; None for nothing."""
    with Descent([tree]) as place:
        return {path: status_at(place, path) for path in paths}


def status_at(place: Descent, path: bytes) -> os.stat_result | None:
    """Go to the directory of `path`, and return what the first tree has there, None for nothing."""
    return status_here(place, place.go_to(path))


def status_here(place: Descent, name: bytes) -> os.stat_result | None:
    """Return what the first tree has under a name here, None for nothing."""
    try:
        return os.stat(name, dir_fd=place.fd(_TREE), follow_symlinks=False)
    except FileNotFoundError:
        return None
