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
"""Bytes free: below the one the ballast is let go, above the other it is held again."""


class Ballast:
    """The file `ballast` in `directory`; `balance` before anything is written there."""

    def __init__(self, directory: bytes) -> None:
        self._directory = directory
        self._path = os.path.join(directory, b"ballast")

    def balance(self) -> int:
        """Hold the space, or let it go, by what is free; return how many bytes are free then.

        Raises OSError, but never for want of space.
        """
        free = self._free()
        if free < _TIGHT:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
        elif free > _AMPLE and not os.path.exists(self._path):
            self._hold()
        else:
            return free
        return self._free()

    def _free(self) -> int:
        space = os.statvfs(self._directory)
        # A file system without blocks, such as ramfs, does not tell its size: it has none.
        return space.f_bavail * space.f_frsize if space.f_blocks else _AMPLE

    def _hold(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _SIZE)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            os.unlink(self._path)
        finally:
            os.close(descriptor)
