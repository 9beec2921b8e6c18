"""Archives made by hand, and a directory to unpack them in with something to harm beside it."""

from __future__ import annotations

import io
import os
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pytest

from envstack.archive.reading import Reading
from envstack.archive.unpack import unpack
from envstack.errors import EnvstackError
from envstack.stackfile.limits import ArchiveLimits
from tests.support import trees

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = ArchiveLimits(bytes=16 << 20, members=500, ratio=100)
"""Small ones, which a test reaches in no time."""

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, data: bytes = b"", **fields: Any) -> Entry:
    """Return one member; `fields` are those of tarfile.TarInfo."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def directory(name: str, **fields: Any) -> Entry:
    return entry(name, type=tarfile.DIRTYPE, mode=0o755, **fields)


def symlink(name: str, target: object) -> Entry:
    return entry(name, type=tarfile.SYMTYPE, linkname=str(target))


def link(name: str, target: object) -> Entry:
    return entry(name, type=tarfile.LNKTYPE, linkname=str(target))


def tar(*entries: Entry, form: Literal[0, 1, 2] = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar archive of members in this order, whatever they say."""
    blocks = []
    for info, data in entries:
        blocks += [info.tobuf(form, "utf-8", "surrogateescape"), data, bytes(-len(data) % 512)]
    return b"".join(blocks) + bytes(1024)


def raw(name: bytes, size: int = 0, **fields: bytes) -> bytes:
    """Return a header of ustar with such bytes in its fields, its check sum right."""
    places = {"mode": 100, "size": 124, "mtime": 136, "type": 156, "link": 157, "magic": 257}
    header = bytearray(512)
    header[: len(name)] = name
    header[100:108], header[124:136] = b"0000644\0", b"%011o\0" % size
    header[257:265] = b"ustar\x0000"
    for field, value in fields.items():
        at = places[field]
        header[at : at + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@dataclass(frozen=True, slots=True)
class Ground:
    """`layer` is the directory to unpack in, `outside` one beside it that must stay as it is."""

    layer: Path
    outside: Path

    def unpack(self, data: bytes, strip: int = 0, limits: ArchiveLimits = LIMITS) -> None:
        """Unpack an archive of these bytes."""
        opened = len(os.listdir("/proc/self/fd"))
        file = os.memfd_create("archive")
        try:
            with open(file, "wb", closefd=False) as writing:
                writing.write(data)
            reading = Reading("test.tar", limits, lambda _entries: None)
            unpack(file, os.fsencode(self.layer), reading, strip)
        finally:
            os.close(file)
            assert len(os.listdir("/proc/self/fd")) == opened, "a descriptor is left open"

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Expect that nothing outside the layer changes, not even a time."""
        before = self._seen()
        yield
        assert self._seen() == before
        assert sorted(os.listdir(self.outside.parent)) == ["layer", "outside"]

    def _seen(self) -> object:
        paths = [self.outside, *sorted(self.outside.rglob("*"))]
        return trees.snapshot(self.outside), [os.lstat(path).st_ctime_ns for path in paths]

    def names(self) -> list[str]:
        """Return all paths in the layer."""
        return sorted(str(path.relative_to(self.layer)) for path in self.layer.rglob("*"))


@contextmanager
def refused(kind: type[EnvstackError], *said: str) -> Iterator[None]:
    """Expect an error of exactly this kind whose message and hint hold these words."""
    with pytest.raises(EnvstackError) as caught:
        yield
    assert type(caught.value) is kind, repr(caught.value)
    text = f"{caught.value.message}\n{caught.value.hint}"
    assert all(words in text for words in ("test.tar: ", *said)), text


def zip_of(**members: bytes) -> io.BytesIO:
    """Return a zip archive of files."""
    import zipfile

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made
