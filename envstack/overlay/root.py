"""The root directory of an upper: a fresh one must look like the root that it comes to stand on.

The kernel shows the metadata of the topmost layer's root as that of the merged root, and nothing is
copied up there when it is mounted.
"""

from __future__ import annotations

import os
import stat

from envstack.overlay import xattrs
from envstack.overlay.marks import Marks, portable

_DRESSED = "envstack.dressed"
"""An attribute that overlayfs does not know, and hides like its own."""


def copy_root(source: bytes, target: bytes, marks: Marks = Marks.TRUSTED) -> None:
    """Give the directory `target` mode, owner, attributes and times of the directory `source`.

    Attributes that `target` has and `source` has not are removed.
    """
    status = os.stat(source)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    wanted = _attributes(source, marks)
    for name in _attributes(target, marks).keys() - wanted.keys():
        os.removexattr(target, name)
    for name, value in wanted.items():
        os.setxattr(target, name, value)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def is_like(one: bytes, other: bytes, marks: Marks = Marks.TRUSTED) -> bool:
    """Tell whether two roots are alike in all that `copy_root` gives, times aside."""
    a, b = os.stat(one), os.stat(other)
    if (a.st_mode, a.st_uid, a.st_gid) != (b.st_mode, b.st_uid, b.st_gid):
        return False
    return _attributes(one, marks) == _attributes(other, marks)


def mark_dressed(upper: bytes, marks: Marks = Marks.TRUSTED) -> None:
    """Say of an upper's root, after `copy_root`, that it was dressed.

    The file system keeps the order of changes to one inode: whoever finds the mark after a power
    cut finds what was done before it too. It is set beside the overlay, which would escape it.
    """
    os.setxattr(upper, f"{marks.prefix}{_DRESSED}", b"y")


def is_dressed(upper: bytes, marks: Marks = Marks.TRUSTED) -> bool:
    """Tell whether an upper's root was dressed."""
    return xattrs.value(upper, f"{marks.prefix}{_DRESSED}") is not None


def _attributes(directory: bytes, marks: Marks) -> dict[str, bytes]:
    """Return what the merged tree shows of a root, as stored; `opaque` means nothing there."""
    names = (
        name
        for name in portable(xattrs.names(directory), marks)
        if not marks.is_private(name) and not name.startswith("security.selinux")
    )
    found = ((name, xattrs.value(directory, name)) for name in names)
    return {name: value for name, value in found if value is not None}
