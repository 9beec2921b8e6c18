"""What the index holds of an entry of an upper: enough to tell whether it is what was told.

Packed, because most entries are compared and found to be what they were.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.overlay import xattrs
from envstack.overlay.marks import is_opaque, visible

if TYPE_CHECKING:
    from envstack.overlay.marks import Marks

_STATUS = struct.Struct("<IIIIQQQQQ")
_MARK = struct.Struct("<?16s")
_TIME = (1 << 64) - 1
"""Times are compared and nothing else: of those before 1970 or after 2554 the low bits will do."""


def status_of(status: os.stat_result) -> bytes:
    """Return what stat(2) tells, times included, as the beginning of an entry's facts."""
    return _STATUS.pack(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns & _TIME,
        status.st_ctime_ns & _TIME,
        status.st_rdev,
    )


def has_status(facts: bytes, status: bytes) -> bool:
    """Tell whether facts begin with a status: then nothing has changed, but by a mapping."""
    return facts.startswith(status)


def directory_mark(directory: int, name: bytes, marks: Marks) -> bytes:
    """Return the end of a directory's facts: whether it is opaque, and its attributes.

    Raises FileNotFoundError where it is gone.
    """
    where = xattrs.beneath(directory, name)
    stored = xattrs.names(where)
    digest = hashlib.blake2b(digest_size=16)
    for shown, attribute in sorted(visible(stored, marks).items()):
        value = xattrs.value(where, attribute) or b""
        digest.update(b"%s\0%d\0%s" % (os.fsencode(shown), len(value), value))
    return _MARK.pack(is_opaque(where, marks), digest.digest())


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts, unpacked; times in nanoseconds. `attributes` stands for those of a directory."""

    mode: int
    uid: int
    gid: int
    links: int
    ino: int
    size: int
    mtime: int
    ctime: int
    rdev: int
    opaque: bool = False
    attributes: bytes = b""

    @property
    def is_whiteout(self) -> bool:
        """Whether it is the character device 0:0, by which an overlay hides what is below."""
        return stat.S_ISCHR(self.mode) and self.rdev == 0

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    def looks_like(self, other: Facts) -> bool:
        """Tell whether nobody sees a difference; what is in a directory is no part of it.

        A directory that was made anew is another one: it was not there for a moment.
        """
        if self.is_dir and other.is_dir:
            return self._outside() == other._outside()
        return self == other

    def _outside(self) -> tuple[int, int, int, int, bytes]:
        return self.ino, self.mode, self.uid, self.gid, self.attributes


def unpack(facts: bytes) -> Facts:
    """Return facts as values."""
    status = _STATUS.unpack_from(facts)
    if len(facts) == _STATUS.size:
        return Facts(*status)
    return Facts(*status, *_MARK.unpack_from(facts, _STATUS.size))
