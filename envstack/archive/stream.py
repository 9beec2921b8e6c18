"""The bytes of an archive in order, decompressed on the way, in memory that does not grow.

Knows the four ways of compressing and no format of archives. What ends too early is damaged: an
archive that was cut off must not pass for a short one.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envstack.archive.reading import Reading

    Read = Callable[[], bytes]
    """Returns the next bytes, none at the end; of a compressed archive few at a time.

    What follows a stream in one piece is copied, and a hostile archive has streams without number.
    """

_PIECE = 1 << 20
"""Bytes that are expanded at once."""
_MEMORY = 256 << 20
"""Bytes that an xz archive may want of memory; `xz -9` makes such as want 65 MiB."""

_ZSTD, _ZSTD_SKIPPED = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
"""How frames of zstd begin (RFC 8878); the other after a byte from 0x50 to 0x5f."""


class _Decompressor(Protocol):
    """What the library's own have in common, one stream or frame each."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor in the shape of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        # A full answer: there may be more of it though all input was taken.
        self.needs_input = not self._inner.unconsumed_tail and len(found) < max_length
        return found


@dataclass(frozen=True, slots=True)
class Codec:
    """A way of compressing: `make` makes a decompressor, which raises `faults` at what is none."""

    make: Callable[[], _Decompressor]
    faults: tuple[type[Exception], ...]


def codec(start: bytes) -> Codec | None:
    """Return how bytes that start so are compressed; None if they are not."""
    if start.startswith(b"\x1f\x8b"):
        return Codec(_Gzip, (zlib.error,))
    if start.startswith(b"\xfd7zXZ\0"):
        make = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_MEMORY)
        return Codec(make, (lzma.LZMAError,))
    if start.startswith(b"BZh"):
        return Codec(bz2.BZ2Decompressor, (OSError, ValueError))
    if start.startswith(_ZSTD) or (start[1:4] == _ZSTD_SKIPPED and start[0] >> 4 == 5):
        return _zstd()
    return None


def _zstd() -> Codec:
    """Return the one that is imported when it is first needed."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    return Codec(zstd.ZstdDecompressor, (zstd.ZstdError,))


def decompressed(read: Read, how: Codec, reading: Reading) -> Read:
    """Return a `Read` of what the bytes of `read` expand to, all streams that are in a row.

    It raises Damaged, and TooLarge before more is expanded than may be.
    """
    pieces = _expand(read, how, reading)
    return lambda: next(pieces, b"")


def _expand(read: Read, how: Codec, reading: Reading) -> Iterator[bytes]:
    expanded = compressed = 0
    data = read()
    while data:
        inner = how.make()
        while not inner.eof:
            compressed += len(data)
            try:
                piece = inner.decompress(data, _PIECE)
            except how.faults as error:
                raise reading.damaged(f"its compressed bytes are corrupt ({error})") from error
            expanded += len(piece)
            reading.compare(expanded, compressed)
            if piece:
                yield piece
            data = b""
            if inner.needs_input and not inner.eof:
                data = read()
                if not data:
                    raise reading.damaged("ends too early: it was cut off")
        data = inner.unused_data
        compressed -= len(data)
        data = _after_zeros(data, read)
        if data and ((another := codec(data)) is None or another.faults != how.faults):
            raise reading.damaged("something that is no part of it stands at its end")


def _after_zeros(data: bytes, read: Read) -> bytes:
    """Return what follows the zeros that a stream may be filled up with."""
    while True:
        data = data.lstrip(b"\0")
        more = b"" if len(data) > 5 else read()
        if not more:
            return data
        data += more


class Stream:
    """What `read` returns, by number of bytes. `position` is how many were taken so far."""

    def __init__(self, read: Read, reading: Reading) -> None:
        self.position = 0
        self._read = read
        self._reading = reading
        self._piece = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, which are few; raises Damaged if there are fewer."""
        found = self.take_up_to(count)
        if len(found) < count:
            raise self._cut_off()
        return found

    def take_up_to(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer only at the end."""
        end = self._at + count
        if end > len(self._piece):
            self._fill(count)
            end = min(count, len(self._piece))
        found = self._piece[self._at : end]
        self._at = end
        self.position += len(found)
        return found

    def pieces(self, count: int) -> Iterator[bytes | memoryview]:
        """Yield the next `count` bytes as they come; raises Damaged if there are fewer."""
        while count > 0:
            piece = self._some(count)
            count -= len(piece)
            yield piece

    def skip(self, count: int) -> None:
        """Leave out the next `count` bytes; raises Damaged if there are fewer."""
        while count > 0:
            count -= len(self._some(count))

    def drain(self) -> None:
        """Read to the end: a check sum may stand there."""
        while self._read():
            pass
        self._piece, self._at = b"", 0

    def _some(self, count: int) -> bytes | memoryview:
        """Return some of the next `count` bytes, one at least."""
        if self._at == len(self._piece):
            self._fill(1)
            if not self._piece:
                raise self._cut_off()
        end = min(self._at + count, len(self._piece))
        found = memoryview(self._piece)[self._at : end]
        self.position += end - self._at
        self._at = end
        return found

    def _fill(self, count: int) -> None:
        """Have `count` bytes at the start of the piece, fewer only at the end."""
        parts = [self._piece[self._at :]]
        held = len(parts[0])
        while held < count and (more := self._read()):
            parts.append(more)
            held += len(more)
        self._piece, self._at = b"".join(parts), 0

    def _cut_off(self) -> Exception:
        return self._reading.damaged("ends too early: it was cut off")
