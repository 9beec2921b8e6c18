"""One file operation done to a merged tree and to a plain directory, with the same outcome.

What overlayfs is known to do otherwise than a plain directory (DESIGN section 5) is done to the
plain one by hand: the first change to one name of a sealed file leaves its other names behind, and
a directory that is not all of this upper is moved by copying.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import trees

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.support.judge import Judge

    Operation = Callable[[bytes], object]


class Twins:
    """Operations take the root of a tree and append paths that begin with a slash.

    `_fresh` holds the inodes of the plain directory that were made, or changed for the first time,
    since the last seal: on the other side those lie in the upper.
    """

    def __init__(self, merged: Path, judge: Judge) -> None:
        self.merged = os.fsencode(merged)
        self.plain = os.fsencode(judge.plain)
        self._spare = os.fsencode(judge.place / "spare")
        self._fresh: set[int] = set()

    def sealed(self) -> None:
        """Take note that a fresh upper lies on top now."""
        self._fresh.clear()

    def do(
        self, operation: Operation, changes: Iterable[bytes] = (), makes: Iterable[bytes] = ()
    ) -> None:
        """Run `operation` on both; `changes` and `makes` are the paths that it touches or adds."""
        outcome = _attempt(operation, self.merged)
        if outcome is None:
            for path in changes:
                self._copy_up(path)
        judged = _attempt(operation, self.plain)
        assert outcome == judged, f"merged answered {_name(outcome)}, plain {_name(judged)}"
        if outcome is None:
            for path in makes:
                self._take(path)

    def rename(self, old: bytes, new: bytes) -> None:
        """Move `old` to `new` by rename(2), by copying the whole where that answers EXDEV."""

        def operation(root: bytes) -> None:
            os.rename(root + old, root + new)

        if not stat.S_ISDIR(self._stat(old).st_mode):
            self.do(operation, changes=[old] * (old != new))
            return
        outcome = _attempt(operation, self.merged)
        movable = self._stat(old).st_ino in self._fresh
        judged = _attempt(operation, self.plain)
        if outcome != errno.EXDEV:
            assert outcome == judged, f"merged answered {_name(outcome)}, plain {_name(judged)}"
            return
        assert not movable, "EXDEV for a directory that is all of this upper"
        if judged is None:
            _move_by_copying(_path(self.merged + old), _path(self.merged + new))
            self._renew(new)

    def _copy_up(self, path: bytes) -> None:
        """Make the file at `path` one of this upper; its other names keep the old one."""
        info = self._stat(path)
        if stat.S_ISDIR(info.st_mode) or info.st_ino in self._fresh:
            return
        if info.st_nlink > 1:
            self._renew(path)
        else:
            self._fresh.add(info.st_ino)

    def _renew(self, path: bytes) -> None:
        """Put a copy with inodes of its own in the place of what is at `path`."""
        trees.duplicate(_path(self.plain + path), _path(self._spare))
        trees.remove(_path(self.plain + path))
        os.rename(self._spare, self.plain + path)
        self._take(path)

    def _take(self, path: bytes) -> None:
        """Note all that is at `path` and beneath it as made since the last seal."""
        info = self._stat(path)
        self._fresh.add(info.st_ino)
        if not stat.S_ISDIR(info.st_mode):
            return  # os.walk would follow a symbolic link given as its top
        for directory, names, files in os.walk(self.plain + path):
            for name in (*names, *files):
                self._fresh.add(os.lstat(directory + b"/" + name).st_ino)

    def _stat(self, path: bytes) -> os.stat_result:
        return os.lstat(self.plain + path)


def _attempt(operation: Operation, root: bytes) -> int | None:
    """Return None if `operation` succeeds, else the error number."""
    try:
        operation(root)
    except OSError as error:
        return error.errno
    return None


def _name(outcome: int | None) -> str:
    return "success" if outcome is None else errno.errorcode[outcome]


def _move_by_copying(old: Path, new: Path) -> None:
    """Do what programs do after EXDEV; mv(1) 9.1 is none of them, it renames file by file."""
    if new.is_dir():
        new.rmdir()
    trees.duplicate(old, new)
    trees.remove(old)


def _path(path: bytes) -> Path:
    return Path(os.fsdecode(path))
