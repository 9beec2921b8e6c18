"""Which mounts, and files on them, are of one overlay's superblock.

A file belongs to an overlay by its superblock, never by its path. The id of the mount through which
it was opened says which superblock that is, and is had without asking a file system. (st_dev alone
would not do: a file that is no directory may have the device of its layer.) The mounts of all
namespaces are known from their tables; of one that was detached lazily no table tells, and then one
file on it is looked at.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.linux import proc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envstack.linux.mountinfo import Mount


class Superblock:
    """Tells which mounts are of the overlay's superblock, and remembers what it found out."""

    def __init__(self, mount: Mount) -> None:
        self.device = mount.device
        self.point = mount.point
        major, minor = map(int, mount.device.split(":"))
        self._number = os.makedev(major, minor)
        self._belongs: dict[int, bool] = {}

    def learn(self, mounts: Iterable[Mount]) -> None:
        """Take note of all mounts of a table."""
        self._belongs.update((mount.id, mount.device == self.device) for mount in mounts)

    def rule_out(self, mount: int) -> None:
        """Take note that the mount of that id is of another superblock."""
        self._belongs[mount] = False

    def knows(self, mount: int) -> bool | None:
        """Return whether the mount of that id is of this superblock; None where it is unknown."""
        return self._belongs.get(mount)

    def has(self, mount: int, path: bytes) -> bool:
        """Return the same, looking at the file `path` on that mount where it is unknown."""
        belongs = self._belongs.get(mount)
        if belongs is None:
            belongs = self._belongs[mount] = self._has_file(path)
        return belongs

    def _has_file(self, path: bytes) -> bool:
        """Whether a file is on this superblock, for one on a mount that no table lists.

        A directory of an overlay always has the overlay's device. Another file may have one that
        stands for its layer's file system; the file system's id is the overlay's own then, since
        Linux 6.6 (before, it is that of the upper's file system, which says too much at worst).
        """
        try:
            if os.stat(path).st_dev == self._number:
                return True
        except proc.GONE:
            raise
        except OSError:
            return False  # its server died: no overlay
        if os.stat(self.point).st_dev != self._number:
            return False  # it is covered; what covers it is a holder already
        fsid = os.statvfs(self.point).f_fsid
        return fsid != 0 and os.statvfs(path).f_fsid == fsid
