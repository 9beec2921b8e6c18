"""The bytes of regular files: whether two files hold the same, and copying them.

Knows open files alone, no names and no metadata. Holes are neither read nor written; where they are
is told by lseek(2) with SEEK_DATA and SEEK_HOLE.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BUFFER = 1 << 20
_PIECE = 16 << 20
"""Bytes between two calls of `tick`."""
_CLONED = 64 << 10
"""From this size on a reflink costs less than a copy."""
_FICLONE = 0x40049409
"""_IOW(0x94, 9, int) of linux/fs.h."""
_NO_CLONE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}
_NO_RANGE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}
"""Answers of ioctl_ficlone(2) and copy_file_range(2) that mean: do it another way."""


def same_bytes(one: int, other: int, size: int, tick: Callable[[], None]) -> bool:
    """Whether two files, `size` bytes long when they were looked at, hold the same.

    `tick` is called before each MiB.
    """
    offset = 0
    while True:
        tick()
        if size > _BUFFER:
            offset = min(_next_data(one, offset, size), _next_data(other, offset, size))
        piece = os.pread(one, _BUFFER, offset)
        if piece != os.pread(other, _BUFFER, offset):
            return False
        if not piece:
            return True
        offset += len(piece)


def copy_bytes(source: int, target: int, tick: Callable[[], None]) -> None:
    """Fill the empty file `target`: by reflink where that can be, else by copying what is no hole.

    `tick` is called after every 16 MiB. A source that is written meanwhile gives a mixture, of the
    length that it had at the beginning or, if shorter, at the end. Raises OSError.
    """
    size = os.fstat(source).st_size
    if size >= _CLONED and _clone(source, target):
        return
    for start, stop in _data(source, size):
        offset = start
        while offset < stop:
            copied = _copy_piece(source, target, offset, min(_PIECE, stop - offset))
            if copied == 0:
                break
            offset += copied
            if offset < stop:
                tick()
    length = min(size, os.fstat(source).st_size)
    if os.fstat(target).st_size != length:
        os.ftruncate(target, length)


def _next_data(fd: int, offset: int, size: int) -> int:
    """Return where the next bytes stand that may not be zero; `size` if none do."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as fault:
        if fault.errno == errno.ENXIO:
            return size
        raise


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where runs of data begin and end, below `size`."""
    stop = 0
    while (start := _next_data(fd, stop, size)) < size:
        stop = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, stop


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as fault:
        if fault.errno in _NO_CLONE:
            return False
        raise
    return True


def _copy_piece(source: int, target: int, offset: int, count: int) -> int:
    """Copy up to `count` bytes at `offset`; return how many, 0 at the end of the source."""
    try:
        return os.copy_file_range(source, target, count, offset, offset)
    except OSError as fault:
        if fault.errno not in _NO_RANGE:
            raise
    return os.pwrite(target, os.pread(source, min(count, _BUFFER), offset), offset)
