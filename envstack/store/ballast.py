"""Space that is held for the database, so that a full disk is no dead end.

On a full file system even `down` and `rollback --discard`, which make room, have rows to write. A
file of this size is held while there is space, and let go when there is little left.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

_SIZE = 1 << 20
"""Bytes: many times what a state change writes, for directories of a new upper as well."""

_TIGHT = 1 << 20
_AMPLE = 16 << 20
"""Bytes free: below the one the ballast is let go, from the other on it is held again."""


class Ballast:
    """The file `ballast` in `directory`; `hold` it in good times, `release` it in need."""

    def __init__(self, directory: bytes) -> None:
        self._directory = directory
        self._path = os.path.join(directory, b"ballast")

    def hold(self) -> bool:
        """Hold the space if there is plenty; tell whether it is held.

        Raises OSError, but never for want of space.
        """
        return os.path.exists(self._path) or (self.is_ample and self._take(self._path, _SIZE))

    def release(self, needed: int) -> bool:
        """Let the space go if little is left, and tell whether `needed` bytes can be had then.

        Only for what a user asks for: background work would let it go while a disk fills up, and
        who fills it would take that too. What root may have besides is found out by trying.
        """
        if not self.is_tight:
            return True
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        probe = self._path + b".probe"
        taken = self._take(probe, needed)
        with suppress(FileNotFoundError):
            os.unlink(probe)
        return taken

    @property
    def is_tight(self) -> bool:
        """Whether little space is left."""
        return free(self._directory) < _TIGHT

    @property
    def is_ample(self) -> bool:
        """Whether there is space to spare."""
        return free(self._directory) >= _AMPLE

    def _take(self, path: bytes, size: int) -> bool:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with suppress(FileNotFoundError):
                os.unlink(path)
            return False
        return True


def free(directory: bytes) -> int:
    """Return how many bytes are free in a directory's file system, root's reserve aside."""
    space = os.statvfs(directory)
    # A file system without blocks, such as ramfs, does not tell its size: it has none.
    return space.f_bavail * space.f_frsize if space.f_blocks else _AMPLE
