"""Files whose bytes may change without a trace in what stat(2) tells: they are compared themselves.

A second write to a page that is dirty already, through a mapping, changes no time stamp (ext4, xfs,
btrfs, tmpfs; Linux 6.18). A file that nobody has open for writing, as a lease tells, cannot be
written to without its times changing first. And where time stamps are coarse, what was written a
moment ago may be written again within the same tick.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import time
from bisect import bisect
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from envstack.feed.facts import has_status, status_of, unpack
from envstack.linux.lease import is_open_for_writing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from envstack.feed.facts import Facts
    from envstack.store.journal import Row

_log = logging.getLogger(__name__)

UNREAD = b""
"""Stands for bytes that nobody has read as yet, or that are too many: they may differ."""

_LARGE = 64 << 20
_SMALL = 1 << 20
_PIECE = 1 << 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_OTHER_KINDS = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV})
"""What open(2) answers for a symbolic link, a socket and a device."""

_AT_ONCE = 500
_BYTES_AT_ONCE = 128 << 20
"""How much is compared in a go: some tenths of a second, in which nothing else is told."""

_COARSE_NS = 20_000_000
"""Two ticks of the slowest kernel clock (HZ=100)."""

_SECONDS_NS = 2_000_000_000
"""Where a file system keeps whole seconds, as ext4 does in inodes of 128 bytes."""

_TRIES = 5


class Doubt:
    """Tells which files are doubtful where time stamps are `grain` nanoseconds apart."""

    def __init__(self, grain: int) -> None:
        self._grain = grain

    def first(self, directory: int, name: bytes) -> tuple[os.stat_result, bytes | None]:
        """Return the status of a file, and what stands for its bytes if it is doubtful.

        The lease comes first: a write through a mapping made after it shows in the status of later.
        What is being written to is not read now, for it may be a log that grows all the time.
        Raises FileNotFoundError for what is no file, or is gone.
        """
        with _Opened(directory, name) as file:
            is_written = is_open_for_writing(file)
            status = os.fstat(file)
            if is_written:
                return status, UNREAD
            return status, _digest(file, _SMALL) if self._is_young(status) else None

    def asks(self, row: Row) -> bool:
        """Tell whether a file is to be looked into whose status is what it was."""
        return row.digest is not None

    def again(self, directory: int, name: bytes, row: Row) -> tuple[bool, bytes | None]:
        """Tell whether the bytes may have changed; return what stands for them if still doubtful.

        For a file that is asked for, whose status is what it was. Raises FileNotFoundError as
        `first` does.
        """
        with _Opened(directory, name) as file:
            is_doubtful = is_open_for_writing(file) or self._is_young(os.fstat(file))
            now = _digest(file, _LARGE)
            return UNREAD in (row.digest, now) or now != row.digest, now if is_doubtful else None

    def _is_young(self, status: os.stat_result) -> bool:
        return self._grain > 0 and time.time_ns() - status.st_ctime_ns < self._grain


class Patrol(Doubt):
    """Asks every file whether somebody may be writing to it unseen; leaves the largest alone."""

    def asks(self, _row: Row) -> bool:
        return True

    def again(self, directory: int, name: bytes, row: Row) -> tuple[bool, bytes | None]:
        if row.digest is not None:
            return self._compared(directory, name, row)
        with _Opened(directory, name) as file:
            if not is_open_for_writing(file):
                return False, None
            digest = _digest(file, _LARGE)
            # After the bytes: had they been changed before, the status would tell.
            is_the_same = has_status(row.facts, status_of(os.fstat(file)))
            return False, digest if is_the_same else None

    def _compared(self, directory: int, name: bytes, row: Row) -> tuple[bool, bytes | None]:
        is_changed, digest = super().again(directory, name, row)
        return is_changed and digest != UNREAD, digest


class Turns:
    """Has doubtful files compared one after the other, a few at a time."""

    def __init__(self) -> None:
        self._last = b""

    def next(self, doubtful: Mapping[bytes, bytes]) -> list[bytes]:
        """Return those that come after the last ones, as many as can be compared in a moment.

        `doubtful` are paths with their facts.
        """
        paths = sorted(doubtful)
        at = bisect(paths, self._last)
        taken: list[bytes] = []
        size = 0
        for path in [*paths[at:], *paths[:at]][:_AT_ONCE]:
            size += _compared_bytes(unpack(doubtful[path]))
            if taken and size > _BYTES_AT_ONCE:
                break
            taken.append(path)
        self._last = taken[-1] if taken else b""
        return taken


def _compared_bytes(facts: Facts) -> int:
    return facts.size if facts.size <= _LARGE else 0


class _Opened:
    """A regular file, open for reading while the context lasts."""

    def __init__(self, directory: int, name: bytes) -> None:
        try:
            self._file = os.open(name, _FILE, dir_fd=directory)
        except OSError as error:
            if error.errno not in _OTHER_KINDS:
                raise
            raise FileNotFoundError(error.errno, error.strerror, name) from error

    def __enter__(self) -> int:
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            os.close(self._file)
            raise FileNotFoundError("no longer a regular file")
        return self._file

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def grain_of(directory: bytes) -> int:
    """Return by trying how many nanoseconds two changes must be apart for two time stamps.

    0 where the kernel sees to it that each change that was looked at gets another one (6.13). The
    most there is where it cannot be tried, on a full disk.
    """
    try:
        with TemporaryFile(dir=directory, buffering=0) as file:
            if all(_differs(file.fileno(), 0.0) for _ in range(_TRIES)):
                return 0
            is_fine = all(_differs(file.fileno(), _COARSE_NS / 1e9) for _ in range(_TRIES))
            return _COARSE_NS if is_fine else _SECONDS_NS
    except OSError as error:
        _log.warning("how fine time stamps are cannot be tried: %s", error)
        return _SECONDS_NS


def _differs(file: int, pause: float) -> bool:
    os.pwrite(file, b"a", 0)
    before = os.fstat(file).st_ctime_ns
    time.sleep(pause)
    os.pwrite(file, b"b", 0)
    return os.fstat(file).st_ctime_ns != before


def _digest(file: int, most: int) -> bytes:
    """Return what stands for the bytes of a file, UNREAD if there are more than `most`."""
    if os.fstat(file).st_size > most:
        return UNREAD
    digest = hashlib.blake2b(digest_size=16)
    offset = 0
    while piece := os.pread(file, _PIECE, offset):
        digest.update(piece)
        offset += len(piece)
        if offset > most:
            return UNREAD
    return digest.digest()
