"""The members of a tar archive: v7, ustar, GNU and pax, as their programs write them.

Python's tarfile would do but for four things: it ends in silence where an archive was cut off,
takes an extended header of any length into memory, answers many in a row with a RecursionError, and
needs twice the time. Facts from pax(1) and ustar of POSIX.1-2024 and from GNU tar's tar.h.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.archive.member import Kind, Member
from envstack.archive.pax import BLOCK, MOST, Records, nanoseconds, sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.archive.member import Piece
    from envstack.archive.pax import Extents
    from envstack.archive.reading import Reading
    from envstack.archive.stream import Stream

_ZEROS = bytes(BLOCK)
_LARGEST = (1 << 63) - 1
"""off_t."""
_OWNERS = (1 << 32) - 1
"""One more than the largest uid, which chown(2) takes for `leave it`."""
_LATEST_NS = _LARGEST // 2 * 1_000_000_000
"""Nanoseconds since the epoch, either way, that a time_t holds."""

_KINDS = {
    b"\0": Kind.FILE,
    b"0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"D": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
_WITH_BYTES = {b"\0", b"0", b"7", b"S", b"D", b"V"}
"""Types whose size says how many bytes follow; a hard link's is that of the other name."""
_OLD_EXTENTS, _MORE_EXTENTS = slice(386, 482), slice(0, 504)


def members(stream: Stream, reading: Reading) -> Iterator[Member]:
    """Yield the members in order; what of one is not read before the next is left out.

    Raises Damaged, also where the archive does not end as an archive must, Unsupported, and
    TooLarge for headers without end.
    """
    everywhere = Records({})
    while True:
        records, name, target = Records(everywhere), b"", b""
        header = _header(stream, reading)
        while header is not None and header[156:157] in b"xXgLK":
            reading.count_entry()
            kind, data = header[156:157], _data(header, stream, reading)
            if kind == b"g":
                everywhere.read(data, reading)
                everywhere = everywhere.lasting()
                records = Records(everywhere)
            elif kind == b"L":
                name = data.partition(b"\0")[0]
            elif kind == b"K":
                target = data.partition(b"\0")[0]
            else:
                records = Records(everywhere)
                records.read(data, reading)
            header = _header(stream, reading)
            if header is None:
                raise reading.damaged("ends after an extended header")
        if header is None:
            stream.drain()
            return
        if header[156:157] == b"V":  # the label of a volume
            stream.skip(_padded(_size(header, records, reading)))
            continue
        reading.member = records.get(b"path") or name or _name(header)
        target = records.get(b"linkpath") or target or _text(header[157:257])
        yield from _member(header, records, target, stream, reading)


def _header(stream: Stream, reading: Reading) -> bytes | None:
    """Return the next header; None at the mark that ends an archive, two blocks of zeros.

    Some programs write one block, and nothing after it.
    """
    block = stream.take_up_to(BLOCK)
    if len(block) < BLOCK:
        raise reading.damaged(_misfit(stream, reading, "is missing: it was cut off"))
    if block == _ZEROS:
        if stream.take_up_to(BLOCK).strip(b"\0"):
            raise reading.damaged("a block of zeros stands in the middle of the archive")
        return None
    written = block[148:156].strip(b" \0")
    # The check sum is taken with blanks in its own place.
    expected = sum(block) - sum(block[148:156]) + 8 * 32
    if not written.isdigit() or _octal(written, reading) != expected:
        raise reading.damaged(_misfit(stream, reading, "is corrupt"))
    return block


def _misfit(stream: Stream, reading: Reading, what: str) -> str:
    """Return what is said of bytes that are no header, where one has to stand."""
    if stream.position <= BLOCK:
        return "is neither tar nor zip" if stream.position else "is empty"
    return f"the archive's next header {what}" if reading.member else f"a header {what}"


def _data(header: bytes, stream: Stream, reading: Reading) -> bytes:
    """Return what an extended header holds."""
    size = _number(header[124:136], reading)
    if size > MOST:
        raise reading.damaged("its extended header is longer than any that is taken, 1 MiB")
    return stream.take(_padded(size))[:size]


def _member(
    header: bytes, records: Records, target: bytes, stream: Stream, reading: Reading
) -> Iterator[Member]:
    """Yield the one member, and leave the stream behind what is stored of it."""
    kind = _kind(header, reading)
    stored = _size(header, records, reading) if header[156:157] in _WITH_BYTES else 0
    end = stream.position + _padded(stored)
    size, pieces = stored, _whole(stream, stored)
    if kind is Kind.FILE:
        if header[156:157] == b"S":
            extents: Extents | None = _old_extents(header, stream, reading)
            end = stream.position + _padded(stored)
            size = _number(header[483:495], reading)
        else:
            extents = sparse(records, stream, stored, reading)
            size = _real_size(records, reading) if extents is not None else stored
        if extents is not None:
            reading.member = records.get(b"GNU.sparse.name") or reading.member
            left = stored - (stream.position - end + _padded(stored))
            _check(extents, size, left, reading)
            pieces = _runs(stream, extents)
    yield Member(
        reading.member,
        kind,
        _number(header[100:108], reading) & 0o7777,
        _owner(header[108:116], records, b"uid", reading),
        _owner(header[116:124], records, b"gid", reading),
        _time(header, records, reading),
        size,
        target,
        _device(header, reading) if kind in (Kind.CHARACTER, Kind.BLOCK) else 0,
        records.xattrs(),
        pieces,
    )
    stream.skip(end - stream.position)


def _kind(header: bytes, reading: Reading) -> Kind:
    kind = _KINDS.get(header[156:157])
    if kind is None:
        raise reading.unsupported(f"a member of a type that is not known ({header[156:157]!r})")
    if kind is Kind.FILE and header[156:157] != b"S" and reading.member.endswith(b"/"):
        return Kind.DIRECTORY  # as v7 wrote it
    return kind


def _name(header: bytes) -> bytes:
    name = _text(header[0:100])
    if header[257:263] == b"ustar\0":  # GNU has other things there
        prefix = _text(header[345:500])
        if prefix:
            return prefix + b"/" + name
    return name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _size(header: bytes, records: Records, reading: Reading) -> int:
    size = records.number(b"size", reading) if records else None
    size = _number(header[124:136], reading) if size is None else size
    if size > _LARGEST:
        raise reading.damaged("a number in its header is none")
    return size


def _real_size(records: Records, reading: Reading) -> int:
    """Return how long a sparse file is, holes included."""
    size = records.number(b"GNU.sparse.realsize", reading)
    size = records.number(b"GNU.sparse.size", reading) if size is None else size
    if size is None or size > _LARGEST:
        raise reading.damaged("its map of holes is corrupt")
    return size


def _owner(field: bytes, records: Records, key: bytes, reading: Reading) -> int:
    found = records.number(key, reading) if records else None
    found = _number(field, reading) if found is None else found
    if found >= _OWNERS:
        raise reading.damaged("its owner is none")
    return found


def _time(header: bytes, records: Records, reading: Reading) -> int:
    written = records.get(b"mtime")
    if written is not None:
        found = nanoseconds(written, reading)
    else:
        found = _signed(header[136:148], reading) * 1_000_000_000
    if abs(found) > _LATEST_NS:
        raise reading.damaged("its time is none")
    return found


def _device(header: bytes, reading: Reading) -> int:
    major, minor = _number(header[329:337], reading), _number(header[337:345], reading)
    if major >= 1 << 12 or minor >= 1 << 20:
        raise reading.damaged("its device number is none")
    return os.makedev(major, minor)


def _number(field: bytes, reading: Reading) -> int:
    found = _signed(field, reading)
    if found < 0:
        raise reading.damaged("a number in its header is below zero")
    return found


def _signed(field: bytes, reading: Reading) -> int:
    """Return a number written in octal digits or, by GNU, in binary with the highest bit set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big") - (
            1 << (8 * len(field) - 1) if field[0] & 0x40 else 0
        )
    return _octal(field.strip(b" \0") or b"0", reading)


def _octal(digits: bytes, reading: Reading) -> int:
    try:
        if digits.isdigit():  # int() takes more than that
            return int(digits, 8)
    except ValueError:
        pass
    raise reading.damaged("a number in its header is none")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _old_extents(header: bytes, stream: Stream, reading: Reading) -> Extents:
    """Return the map of holes that GNU tar wrote into headers, once and by --format=gnu today."""
    field, is_more = header[_OLD_EXTENTS], header[482]
    found: Extents = []
    while True:
        for at in range(0, len(field), 24):
            if field[at : at + 1] == b"\0":
                break
            offset, length = field[at : at + 12], field[at + 12 : at + 24]
            found.append((_number(offset, reading), _number(length, reading)))
        if not is_more:
            return found
        reading.count_entry()
        block = stream.take(BLOCK)
        field, is_more = block[_MORE_EXTENTS], block[504]


def _check(extents: Extents, size: int, stored: int, reading: Reading) -> None:
    """Raise Damaged unless the runs stand in order, within the file, and are what is stored."""
    end = total = 0
    for offset, length in extents:
        if offset < end:
            raise reading.damaged("its map of holes is corrupt")
        end = offset + length
        total += length
    if end > size or total != stored:
        raise reading.damaged("its map of holes is corrupt")


def _whole(stream: Stream, size: int) -> Iterator[Piece]:
    return _runs(stream, [(0, size)])


def _runs(stream: Stream, extents: Extents) -> Iterator[Piece]:
    for offset, length in extents:
        for piece in stream.pieces(length):
            yield offset, piece
            offset += len(piece)
