"""Which format an archive has, told by its content alone, and its members whatever that is."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from envstack.archive import tar, zipped
from envstack.archive.pax import BLOCK
from envstack.archive.stream import Stream, codec, decompressed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.archive.member import Member
    from envstack.archive.reading import Reading

_PLAIN = 1 << 20
_COMPRESSED = 1 << 16
"""Bytes that are read at once."""
_ZIP = (b"PK\3\4", b"PK\5\6")
"""How a zip archive starts, and an empty one."""


def members(file: int, reading: Reading) -> Iterator[Member]:
    """Yield the members of the archive that `file` is open on; the file can be read from any place.

    Raises Damaged for what is corrupt, cut off or no archive, Unsafe, Unsupported and TooLarge.
    """
    start = os.pread(file, BLOCK, 0)
    if start.startswith(_ZIP):
        return zipped.members(file, reading)
    os.lseek(file, 0, os.SEEK_SET)
    how = codec(start)
    if how is None:
        return tar.members(Stream(partial(_read, file, _PLAIN, reading), reading), reading)
    read = decompressed(partial(_read, file, _COMPRESSED, reading), how, reading)
    return tar.members(Stream(read, reading), reading)


def _read(file: int, count: int, reading: Reading) -> bytes:
    reading.tick()
    try:
        return os.read(file, count)
    except OSError as error:
        raise reading.failed(error) from error
