"""Single entries of a tree: opening one to be read, and giving a copy its names and metadata.

Bytes come first, then owner, mode, extended attributes (a change of owner or of bytes takes
capabilities away), then times. Which entries are copied, and what becomes of what is in a
directory, is said elsewhere (`copy`, `making`).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from envstack.overlay import xattrs
from envstack.overlay.descent import Descent
from envstack.overlay.marks import portable, refuse_references

if TYPE_CHECKING:
    from envstack.overlay.marks import Marks

Attributes = tuple[tuple[str, bytes], ...]
"""Extended attributes, as they are stored."""

WRITE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a copy is made: it may be read again, to be compared with what it is a copy of."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_to_read(name: bytes, dirfd: int | None = None) -> int:
    """Open a file without waiting for anybody, and without a trace where that is allowed."""
    try:
        return os.open(name, _READ | os.O_NOATIME, dir_fd=dirfd)
    except PermissionError:  # another user's
        return os.open(name, _READ, dir_fd=dirfd)


def attributes(path: bytes, where: xattrs.Where, marks: Marks) -> Attributes:
    """Return what goes with a copy of an entry; `path` is for messages.

    Raises errors.Unsupported for an entry that needs the layers it came from.
    """
    names = xattrs.names(where)
    refuse_references(path, names, marks)
    values = ((name, xattrs.value(where, name)) for name in portable(names, marks))
    return tuple((name, value) for name, value in values if value is not None)


def put_link(tree: bytes, first: bytes, dirfd: int, name: bytes) -> None:
    """Make `name` in an open directory another name of what is at the path `first` of a tree."""
    with Descent([tree]) as origin:
        last = origin.go_to(first)
        os.link(last, name, src_dir_fd=origin.fd(0), dst_dir_fd=dirfd, follow_symlinks=False)


def put_metadata(dirfd: int, name: bytes, status: os.stat_result, attributes: Attributes) -> None:
    """Give the entry `name` of an open directory owner, mode, attributes and times."""
    os.chown(name, status.st_uid, status.st_gid, dir_fd=dirfd, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=dirfd)
    for attribute, value in attributes:
        os.setxattr(xattrs.beneath(dirfd, name), attribute, value, follow_symlinks=False)
    times = status.st_atime_ns, status.st_mtime_ns
    os.utime(name, ns=times, dir_fd=dirfd, follow_symlinks=False)
