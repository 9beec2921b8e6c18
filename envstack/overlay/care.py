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

_ROOT = b"."
_TREE = 0
"""The tree that is looked at is the first of a descent's."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a name: if it looks so again it is what it was.

    `changed` is None for a file with several names, which is changed by what is done to the others.
    """

    kind: int
    ino: int
    size: int
    modified: int
    changed: int | None

    @classmethod
    def of(cls, status: os.stat_result) -> Sight:
        """Return what is to be seen of an entry; of a directory, that it is one."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            return cls(kind, 0, 0, 0, None)
        changed = status.st_ctime_ns if status.st_nlink == 1 else None
        return cls(kind, status.st_ino, status.st_size, status.st_mtime_ns, changed)

    def is_of(self, status: os.stat_result) -> bool:
        """Tell whether an entry still looks so."""
        now = Sight.of(status)
        if self.changed is not None and self.changed != status.st_ctime_ns:
            return False
        lasting = now.kind, now.ino, now.size, now.modified
        return lasting == (self.kind, self.ino, self.size, self.modified)


def sights(merged: bytes, paths: Iterable[bytes]) -> dict[bytes, Sight | None]:
    """Return what is seen now at each of `paths` of the tree at `merged`; None for nothing."""
    seen: dict[bytes, Sight | None] = {}
    with Descent([merged]) as place:
        way = Way(place)
        for path in paths:
            status = way.status(way.to(path))
            seen[path] = None if status is None else Sight.of(status)
    return seen


@dataclass(frozen=True, slots=True)
class Care:
    """What is not to be touched: what is in `kept`, and what looks otherwise than in `seen`."""

    kept: Container[bytes] = frozenset()
    seen: Mapping[bytes, Sight | None] = field(default_factory=dict)

    def allows(self, path: bytes, status: os.stat_result | None) -> bool:
        """Tell whether a path, which is `status` now, may be changed."""
        if path in self.kept:
            return False
        if path not in self.seen:
            return True
        seen = self.seen[path]
        if seen is None or status is None:
            # Nothing is lost where there is nothing any more.
            return status is None
        return seen.is_of(status)


class Way:
    """Leads a descent from one path to the next; they come best in the order of a walk."""

    def __init__(self, place: Descent) -> None:
        self._place = place
        self._at: list[bytes] = []

    @property
    def directory(self) -> bytes:
        """The path of the directory where it is."""
        return b"/".join(self._at) or _ROOT

    def to(self, path: bytes) -> bytes:
        """Go to the directory that holds `path`, and return the name in it."""
        *parents, name = path.split(b"/")
        common = 0
        while common < min(len(parents), len(self._at)) and parents[common] == self._at[common]:
            common += 1
        while len(self._at) > common:
            self._place.leave()
            self._at.pop()
        for parent in parents[common:]:
            self._place.enter(parent)
            self._at.append(parent)
        return name

    def status(self, name: bytes) -> os.stat_result | None:
        """Return what the tree has under a name here, None if that is nothing."""
        try:
            return os.stat(name, dir_fd=self._place.fd(_TREE), follow_symlinks=False)
        except FileNotFoundError:
            return None
