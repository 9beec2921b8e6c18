"""What an archive says of one path: the value that readers make and a writer takes."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

Piece = tuple[int, bytes | memoryview]
"""Bytes of a file, and the offset that they stand at."""


class Kind(Enum):
    FILE = auto()
    DIRECTORY = auto()
    SYMLINK = auto()
    LINK = auto()
    FIFO = auto()
    CHARACTER = auto()
    BLOCK = auto()


class Member(NamedTuple):
    """One member, its name and all else as written.

    `mode` are the permission bits alone, `size` is that of the file as it will be, holes included.
    `pieces` are its bytes, in order and without the holes: to be read before the next member, or
    not at all. `target` is that of a symbolic link, or the name of the member that a hard link is
    another name of. `device` is as mknod(2) takes it.
    """

    name: bytes
    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: bytes = b""
    device: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    pieces: Iterable[Piece] = ()
