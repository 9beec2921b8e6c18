"""Extended attributes of open files and of names in open directories; symlinks are not followed.

No `listxattrat` is there on every kernel (it came with 6.13): the way by dirfd leads through
`/proc/self/fd`. A file system without extended attributes has none; an attribute that vanished
while it was read is absent. Which of them mean something to overlayfs is said by `marks`.
"""

from __future__ import annotations

import errno
import os

Where = int | bytes
"""An open file, or what `beneath` returned."""


def beneath(dirfd: int, name: bytes) -> bytes:
    """Return the place of `name` in an open directory; good while the directory is open."""
    return b"/proc/self/fd/%d/%s" % (dirfd, name)


def names(where: Where) -> list[str]:
    """Return the attribute names; raises FileNotFoundError if there is no such entry."""
    try:
        return os.listxattr(where, follow_symlinks=isinstance(where, int))
    except OSError as fault:
        if fault.errno == errno.EOPNOTSUPP:
            return []
        raise


def value(where: Where, attribute: str) -> bytes | None:
    """Return an attribute's value, None if it is not there.

    Raises FileNotFoundError if there is no such entry.
    """
    try:
        return os.getxattr(where, attribute, follow_symlinks=isinstance(where, int))
    except OSError as fault:
        if fault.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise
