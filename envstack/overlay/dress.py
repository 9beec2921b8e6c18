"""Owner, mode and extended attributes: an entry of a mounted tree gets those of a layer's entry."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.overlay import xattrs
from envstack.overlay.marks import visible

if TYPE_CHECKING:
    from envstack.overlay.marks import Marks

_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_SETTABLE = ("user.", "trusted.", "security.", "system.posix_acl_")
"""The attributes that can be set on a file; others belong to its file system (xattr(7))."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A name in an open directory."""

    directory: int
    name: bytes

    def status(self) -> os.stat_result:
        """Return what lstat(2) says."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    @property
    def attributes(self) -> xattrs.Where:
        """Where the attributes are to be had."""
        return xattrs.beneath(self.directory, self.name)


def dress(source: Spot, marks: Marks, target: Spot) -> None:
    """Make `target` look like `source`, an entry of a layer with `marks`, times and bytes aside.

    What is as it should be is not touched. Raises OSError.
    """
    wanted, now = source.status(), target.status()
    is_owned = (now.st_uid, now.st_gid) == (wanted.st_uid, wanted.st_gid)
    if not is_owned:
        owner = wanted.st_uid, wanted.st_gid
        os.chown(target.name, *owner, dir_fd=target.directory, follow_symlinks=False)
    # A change of owner takes some bits of the mode away.
    if now.st_mode != wanted.st_mode or not is_owned:
        _chmod(target, wanted.st_mode)
    _put_attributes(source, marks, target)


def _chmod(spot: Spot, mode: int) -> None:
    """Change the mode of what the name is now; of a symbolic link, and what it leads to, none."""
    handle = os.open(spot.name, _HANDLE, dir_fd=spot.directory)
    try:
        if not stat.S_ISLNK(os.fstat(handle).st_mode):
            os.chmod(b"/proc/self/fd/%d" % handle, stat.S_IMODE(mode))
    finally:
        os.close(handle)


def _put_attributes(source: Spot, marks: Marks, target: Spot) -> None:
    """Last, because a change of owner takes capabilities away."""
    stored = visible(xattrs.names(source.attributes), marks)
    found = {shown: xattrs.value(source.attributes, name) for shown, name in stored.items()}
    wanted = {
        shown: value
        for shown, value in found.items()
        if value is not None and shown.startswith(_SETTABLE)
    }
    for name in xattrs.names(target.attributes):
        if name not in wanted and name.startswith(_SETTABLE):
            os.removexattr(target.attributes, name, follow_symlinks=False)
    for name, value in wanted.items():
        if xattrs.value(target.attributes, name) != value:
            os.setxattr(target.attributes, name, value, follow_symlinks=False)
