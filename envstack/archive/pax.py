"""The extended headers of tar: the records of POSIX (pax), and maps of sparse files.

Facts from pax(1) of POSIX.1-2024, star's SCHILY attributes and GNU tar's manual, "Storing Sparse
Files". Every length that an archive gives is bounded before it is believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.archive.reading import Reading
    from envstack.archive.stream import Stream

BLOCK = 512
"""Bytes: all that stands in a tar archive is filled up to so many."""
MOST = 1 << 20
"""Bytes of an extended header; Go's archive/tar has the same bound."""
_MOST_EXTENTS = 1 << 18
"""Runs of data in one sparse file."""
_DIGITS = 20
"""Of the largest number: a length that is longer is none."""
_XATTR = b"SCHILY.xattr."
_KNOWN = frozenset(
    {
        *(b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"),
        *(b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.name", b"GNU.sparse.numblocks"),
        *(b"GNU.sparse.realsize", b"GNU.sparse.size"),
    }
)

Extents = list[tuple[int, int]]
"""Where runs of data begin in a sparse file, and how long they are."""


class Records(dict[bytes, bytes]):
    """The records that mean something here, by key; those that repeat stand in `pairs`."""

    pairs: list[bytes]

    def __init__(self, other: dict[bytes, bytes]) -> None:
        super().__init__(other)
        self.pairs = []

    def read(self, data: bytes, reading: Reading) -> None:
        """Take in what an extended header holds; a record without a value takes one away."""
        at = 0
        while at < len(data):
            space = data.find(b" ", at, at + _DIGITS)
            digits = data[at:space]
            if space < 0 or not digits.isdigit():
                raise reading.damaged("its extended header is corrupt")
            end = at + int(digits)
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if end > len(data) or not key or not equals or data[end - 1 : end] != b"\n":
                raise reading.damaged("its extended header is corrupt")
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                self.pairs.append(value)
            elif not value:
                self.pop(key, None)
            elif key in _KNOWN or key.startswith(_XATTR):
                self[key] = value
            at = end

    def lasting(self) -> Records:
        """Return the records that may stand for all members: few, whatever an archive says."""
        return Records({key: value for key, value in self.items() if key in _KNOWN})

    def number(self, key: bytes, reading: Reading) -> int | None:
        """Return the whole number under `key`, if there is one."""
        value = self.get(key)
        return None if value is None else whole(value, reading)

    def xattrs(self) -> tuple[tuple[str, bytes], ...]:
        """Return the extended attributes."""
        if not self:
            return ()
        return tuple(
            (key[len(_XATTR) :].decode("utf-8", "surrogateescape"), value)
            for key, value in self.items()
            if key.startswith(_XATTR)
        )


def whole(value: bytes, reading: Reading) -> int:
    """Return a decimal number that is not negative."""
    if not value.isdigit() or len(value) > _DIGITS:
        raise reading.damaged("a number in its header is none")
    return int(value)


def nanoseconds(value: bytes, reading: Reading) -> int:
    """Return a time that is written in seconds, with a fraction or without."""
    seconds, _, fraction = value.removeprefix(b"-").partition(b".")
    if not (seconds + fraction).isdigit() or len(seconds) > _DIGITS:
        raise reading.damaged("a time in its header is none")
    found = int(seconds or b"0") * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -found if value.startswith(b"-") else found


def sparse(records: Records, stream: Stream, stored: int, reading: Reading) -> Extents | None:
    """Return the map of a file that is sparse by its records, None if it is not.

    `stored` bytes of the stream are the file's; a map that stands among them is taken off.
    """
    if records.get(b"GNU.sparse.major") == b"1":
        return _leading(stream, stored, reading)
    if b"GNU.sparse.map" in records:
        return _paired(records[b"GNU.sparse.map"].split(b","), reading)
    if records.pairs or b"GNU.sparse.numblocks" in records:
        return _paired(records.pairs, reading)
    return None


def _leading(stream: Stream, stored: int, reading: Reading) -> Extents:
    """Read the map of version 1.0: a number a line, filled up to whole blocks."""
    end = stream.position + stored
    lines = _lines(stream, end, reading)
    count = whole(next(lines), reading)
    if count > _MOST_EXTENTS:
        raise reading.damaged("its map of holes is longer than any that is taken")
    return [(whole(next(lines), reading), whole(next(lines), reading)) for _ in range(count)]


def _lines(stream: Stream, end: int, reading: Reading) -> Iterator[bytes]:
    """Yield lines up to `end`; no block is taken before a line of it is asked for."""
    rest = b""
    while stream.position < end and len(rest) <= _DIGITS:
        *lines, rest = (rest + stream.take(BLOCK)).split(b"\n")
        yield from lines
    raise reading.damaged("its map of holes is corrupt")


def _paired(values: list[bytes], reading: Reading) -> Extents:
    if len(values) % 2 or len(values) > 2 * _MOST_EXTENTS:
        raise reading.damaged("its map of holes is corrupt")
    numbers = [whole(value, reading) for value in values]
    return list(zip(numbers[::2], numbers[1::2], strict=True))
