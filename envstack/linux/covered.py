"""The directory that a mount covers: no path leads there, and yet it must be read.

A copy of the mount that lies below shows it. From there it is opened anew on the mount itself,
because a lower directory of an overlay has to lie on a mount of the namespace before Linux 6.15
(`clone_private_mount` in fs/namespace.c).
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from envstack.errors import StateError, Unsupported
from envstack.linux import syscalls as sys

if TYPE_CHECKING:
    from envstack.linux.mountinfo import Mount

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_covered(mount: Mount) -> int:
    """Return an O_PATH descriptor of the directory that `mount`, the lowest at its point, covers.

    That must not be the root of what is mounted below. Raises StateError where the mount is not
    there any more, Unsupported where the file system has no handles and the kernel is too old to
    do without.
    """
    above, name = os.path.split(mount.point)
    with ExitStack() as opened:
        parent = os.open(above, os.O_RDONLY | _DIRECTORY)
        opened.callback(os.close, parent)
        if sys.mount_id(b"", dir_fd=parent) != mount.parent:
            raise StateError(f"something was mounted over {os.fsdecode(above)}", "try again")
        copy = sys.open_tree(b"", sys.OPEN_TREE_CLONE, dir_fd=parent)
        opened.callback(os.close, copy)
        covered = os.open(name, os.O_PATH | _DIRECTORY, dir_fd=copy)
        opened.callback(os.close, covered)
        try:
            return sys.open_on_mount(covered, parent, os.O_PATH | _DIRECTORY)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        return _copy_of_its_own(covered, mount.point)


def _copy_of_its_own(covered: int, point: bytes) -> int:
    """Return a mount of the directory alone, which no mount event reaches; it is open as O_PATH."""
    try:
        copy = sys.open_tree(b"", sys.OPEN_TREE_CLONE, dir_fd=covered)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise Unsupported(
            f"this kernel and file system do not show what lies below {os.fsdecode(point)}",
            "envstack down; envstack up",
        ) from error
    sys.mount_setattr(copy, propagation=sys.MS_PRIVATE)
    return copy
