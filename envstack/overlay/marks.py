"""What overlayfs writes into a layer to say what is hidden, and how to read it.

A whiteout hides a name of the layers below, an opaque directory all that they hold under its name.
Facts from Documentation/filesystems/overlayfs.rst and fs/overlayfs of Linux 6.18. This module reads
marks; it does not know what a chain of layers shows (`merged` does).
"""

from __future__ import annotations

import stat
from enum import Enum
from typing import TYPE_CHECKING

from envstack.errors import Unsupported
from envstack.overlay import xattrs

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable


class Marks(Enum):
    """The prefix of a layer's overlay attributes; `USER` is that of mounts with `userxattr`."""

    TRUSTED = "trusted.overlay."
    USER = "user.overlay."

    @property
    def prefix(self) -> str:
        return self.value

    @property
    def escape(self) -> str:
        """The prefix under which the kernel (6.7) stores a user's own attributes of that name."""
        return f"{self.value}overlay."

    def is_private(self, attribute: str) -> bool:
        """Whether overlayfs keeps the attribute to itself: nobody sees it in the merged tree."""
        return attribute.startswith(self.prefix) and not attribute.startswith(self.escape)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an entry is a whiteout by its type: the character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_whiteout_file(status: os.stat_result, attributes: Iterable[str], marks: Marks) -> bool:
    """Whether an entry with these attributes is a whiteout by them (kernel 6.7 and later).

    That is an empty regular file with the attribute `whiteout`. In a directory whose `opaque` is
    not `x` the kernel lists its name, but still finds nothing under it.
    """
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_size == 0
        and f"{marks.prefix}whiteout" in attributes
    )


def is_opaque(directory: xattrs.Where, marks: Marks) -> bool:
    """Whether a directory hides what the layers below hold in its place.

    The kernel does not ask this of the root directory of a layer.
    """
    return xattrs.value(directory, f"{marks.prefix}opaque") == b"y"


def visible(attributes: Iterable[str], marks: Marks) -> dict[str, str]:
    """Return the attributes that the merged tree shows of an entry, each with its stored name."""
    return {
        name.replace(marks.escape, marks.prefix, 1) if name.startswith(marks.escape) else name: name
        for name in attributes
        if not marks.is_private(name)
    }


def portable(attributes: Iterable[str], marks: Marks) -> list[str]:
    """Return the attributes that a copy of an entry takes into another layer, as stored.

    Of overlayfs's own those that hide something. The others (`origin`, `impure`, `nlink`, `upper`,
    `uuid`, `protattr`) tie the entry to the layers that it was an upper of. Namespaces unknown to
    xattr(7) belong to one file system and mean nothing on another.
    """
    hiding = {f"{marks.prefix}opaque", f"{marks.prefix}whiteout"}
    spaces = ("user.", "trusted.", "security.", "system.posix_acl_")
    return [
        name
        for name in attributes
        if name in hiding or (name.startswith(spaces) and not marks.is_private(name))
    ]


def refuse_references(path: bytes, attributes: Iterable[str], marks: Marks) -> None:
    """Raise Unsupported where an entry's bytes or children are to be taken from another layer.

    Overlays mounted with `redirect_dir=on` or `metacopy=on` leave these; without those options,
    which are unsafe on layers that were not made here, the kernel refuses such an entry too.
    """
    for mark in ("redirect", "metacopy"):
        if f"{marks.prefix}{mark}" in attributes:
            raise Unsupported(
                f"{path.decode(errors='replace')} carries the overlay attribute "
                f"{marks.prefix}{mark}: it is not whole without the layers that it came from",
                "copy the tree out of the mounted overlay that made it, and use the copy",
            )
