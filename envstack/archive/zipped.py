"""The members of a zip archive, by Python's zipfile, which is told how much it may take in.

It reads the whole central directory into memory; what it answers at bytes that make no sense is of
many kinds.
"""

from __future__ import annotations

import io
import lzma
import stat
import struct
import zipfile
import zlib
from calendar import timegm
from typing import TYPE_CHECKING

from envstack.archive.member import Kind, Member

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.archive.member import Piece
    from envstack.archive.reading import Reading

_PIECE = 1 << 20
_DIRECTORY = 64 << 20
"""Bytes of a central directory: a million members of it are as many objects in memory."""
_ENTRY = b"PK\1\2"
_UNIX = 3
_UTF8 = 0x800
_ENCRYPTED = 0x1
_TIMES, _OWNER = 0x5455, 0x7875
"""Ids of extra fields, by Info-ZIP's extrafld.txt."""
_TARGET = 4095
"""Bytes of a symbolic link's target, PATH_MAX without the NUL."""

_KINDS = {
    0: Kind.FILE,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
}
_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    IndexError,
    OSError,
)


def members(file: int, reading: Reading) -> Iterator[Member]:
    """Yield the members of the zip archive that `file` is open on, as its directory lists them.

    What an archive that unpacks itself begins with is no matter. Raises Damaged, Unsupported for
    what is encrypted or compressed in a way that is not known, and TooLarge before anything is
    expanded.
    """
    source = _Source(file, reading)
    try:
        archive = zipfile.ZipFile(source)
    except _FAULTS as error:
        raise reading.damaged(f"its directory is corrupt ({error})") from error
    except NotImplementedError as error:
        raise reading.unsupported(f"it is a zip archive of a newer kind ({error})") from error
    total = sum(info.file_size for info in archive.infolist())
    reading.compare(total, source.seek(0, io.SEEK_END))
    for info in archive.infolist():
        reading.member = _name(info)
        yield _member(archive, info, reading)


class _Source(io.FileIO):
    """The archive's file; it stays open when this is closed."""

    def __init__(self, file: int, reading: Reading) -> None:
        super().__init__(file, closefd=False)
        self._reading = reading

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does, unless that were a directory of more members than may be."""
        self._reading.tick()
        if size is not None and size > _DIRECTORY:
            raise self._reading.too_large("more entries than a zip archive may have", "max_members")
        data = super().read(-1 if size is None else size) or b""
        if data.count(_ENTRY) > self._reading.limits.members:
            most = f"more than {self._reading.limits.members:,} entries"
            raise self._reading.too_large(most, "max_members")
        return data


def _name(info: zipfile.ZipInfo) -> bytes:
    """Return the name as the archive has it; zipfile ends one at a NUL."""
    if not info.flag_bits & _UTF8 and info.create_system == _UNIX:
        return info.orig_filename.encode("cp437")  # the very bytes: unix has no code pages
    return info.orig_filename.encode("utf-8", "surrogateescape")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, reading: Reading) -> Member:
    if info.flag_bits & _ENCRYPTED:
        raise reading.unsupported("it is encrypted, and a stack file holds no passwords")
    mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind is None:
        raise reading.unsupported("a member of a type that is not known")
    if reading.member.endswith(b"/"):
        kind = Kind.DIRECTORY
    is_directory = kind is Kind.DIRECTORY
    uid, gid = _owner(info.extra)
    return Member(
        reading.member,
        kind,
        stat.S_IMODE(mode) if mode else 0o755 if is_directory else 0o644,
        uid,
        gid,
        _time(info),
        info.file_size,
        _target(archive, info, reading) if kind is Kind.SYMLINK else b"",
        pieces=_pieces(archive, info, reading),
    )


def _target(archive: zipfile.ZipFile, info: zipfile.ZipInfo, reading: Reading) -> bytes:
    if info.file_size > _TARGET:
        raise reading.damaged("it is a symbolic link with a target that is too long")
    return b"".join(bytes(piece) for _, piece in _pieces(archive, info, reading))


def _pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo, reading: Reading) -> Iterator[Piece]:
    offset = 0
    try:
        with archive.open(info) as content:
            while piece := content.read(_PIECE):
                yield offset, piece
                offset += len(piece)
    except _FAULTS as error:
        raise reading.damaged(f"its bytes are corrupt ({error})") from error
    except NotImplementedError as error:
        what = f"it is compressed in a way that is not known ({error})"
        raise reading.unsupported(what) from error
    if offset != info.file_size:
        raise reading.damaged("it is shorter than the directory says")


def _time(info: zipfile.ZipInfo) -> int:
    """Return when it was modified; where only DOS's local time is there, that counts as UTC."""
    for kind, data in _fields(info.extra):
        if kind == _TIMES and len(data) >= 5 and data[0] & 1:
            return int.from_bytes(data[1:5], "little", signed=True) * 1_000_000_000
    try:
        return timegm((*info.date_time, 0, 0, 0)) * 1_000_000_000
    except ValueError:  # the month 0, which some programs write
        return 0


def _owner(extra: bytes) -> tuple[int, int]:
    """Return the uid and gid; root's where none is told."""
    for kind, data in _fields(extra):
        if kind == _OWNER and data[:2] == b"\1\4" and len(data) == 11:
            owner = int.from_bytes(data[2:6], "little"), int.from_bytes(data[7:11], "little")
            if max(owner) < (1 << 32) - 1:
                return owner
    return 0, 0


def _fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        yield kind, extra[at + 4 : at + 4 + size]
        at += 4 + size
