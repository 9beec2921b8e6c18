"""What a directory by reference looks like, in a few bytes: whether it changed, and where.

A digest over all that `lstat` tells a reader of every entry, and the target of a symbolic link.
Left out is what no reader of the merged tree would miss: inode numbers, a directory's own size and
times (what it holds tells), the root's own metadata (an upper has its own), extended attributes
(one more call an entry). A change that leaves size and mtime as they were is not seen.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.linux.syscalls import mount_id
from envstack.model import Fingerprint
from envstack.overlay.descent import Descent, visit

if TYPE_CHECKING:
    from collections.abc import Callable

PRIVATE = b".envstack"
"""The directory of a project that is envstack's own, and no part of the layer.

It is hidden from git by a `.gitignore` of its own.
"""

_ENTRY = struct.Struct("<IIIQQqHH")
"""Mode, owner, group, size, device, mtime in ns, and how long name and target are."""
_DIRECTORY = struct.Struct("<II")
"""How long the path is, and the errno of one that cannot be listed, else 0."""
_COARSE = 5
"""CLOCK_REALTIME_COARSE, the clock that file systems stamp with (clock_gettime(2))."""
_TICK = 1024
"""Entries between two calls of `tick`, about."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Seen:
    """A directory as it was found; `paths` are a few that changed since an instant, if any did."""

    fingerprint: Fingerprint
    paths: tuple[bytes, ...]


def clock_ns() -> int:
    """Return an instant that every change from now on is stamped later than, in nanoseconds."""
    return time.clock_gettime_ns(_COARSE) - 1


def look(root: bytes, since_ns: int, tick: Callable[[int], None]) -> Seen:
    """Return the fingerprint of the directory `root`, and paths whose ctime is after `since_ns`.

    A name that was deleted shows as the directory that it was in (the root is `b"."`), unless
    something else in there changed. Mount points are no part of it, nor is `.envstack`. What
    vanishes meanwhile is left out; what cannot be listed counts as that. `tick` is told the entries
    so far and may raise to end it. Raises FileNotFoundError or NotADirectoryError where the root is
    no directory.
    """
    taken_ns = clock_ns()
    with Descent([root]) as place:
        status = os.stat(place.fd(0))
        walk = _Walk(place, status.st_dev, since_ns, tick)
        visit(place, walk.take)
        tick(walk.entries)
    return Seen(
        Fingerprint(walk.digest(), walk.entries, identity(status), taken_ns), tuple(walk.paths)
    )


def identity(status: os.stat_result) -> str:
    """Return what tells a directory from one that was made in its place.

    Good for as long as something holds the directory, as an overlay does its layers: a number in
    use is not given away again.
    """
    return f"{status.st_dev}:{status.st_ino}"


class _Walk:
    """One walk, names in order."""

    def __init__(
        self, place: Descent, device: int, since_ns: int, tick: Callable[[int], None]
    ) -> None:
        self.entries = 0
        self.paths: list[bytes] = []
        self._place = place
        self._device = device
        self._mount = mount_id(b"", dir_fd=place.fd(0))
        self._since_ns = since_ns
        self._tick = tick
        self._told = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def take(self) -> list[bytes]:
        """Take in the directory at this place, and return the names of those in it, last first."""
        path = self._place.path(b"")[:-1]
        try:
            found = self._scan()
            changed_ns = os.stat(self._place.fd(0)).st_ctime_ns
        except FileNotFoundError:
            return []
        except OSError as error:
            self._hash.update(_DIRECTORY.pack(len(path), error.errno or 0) + path)
            return []
        found.sort()
        parts = [_DIRECTORY.pack(len(path), 0), path]
        directories = []
        is_told = False
        for name, entry in found:
            target = self._target(name) if stat.S_ISLNK(entry.st_mode) else b""
            parts += (_packed(entry, name, target), name, target)
            if stat.S_ISDIR(entry.st_mode):
                directories.append((name, entry))
            elif entry.st_ctime_ns > self._since_ns:
                self._show(path, name)
                is_told = True
        is_told |= any(entry.st_ctime_ns > self._since_ns for _name, entry in directories)
        if changed_ns > self._since_ns and not is_told:
            self._show(path, b"")
        self._hash.update(b"".join(parts))
        self._count(len(found))
        return [name for name, _entry in reversed(directories)]

    def _scan(self) -> list[tuple[bytes, os.stat_result]]:
        found = []
        with os.scandir(self._place.fd(0)) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                name = os.fsencode(entry.name)
                if name != PRIVATE and self._is_own(name, status):
                    found.append((name, status))
        return found

    def _is_own(self, name: bytes, status: os.stat_result) -> bool:
        """Tell an entry of the tree from a mount on it, without opening what is mounted.

        A subvolume has another device and is no mount. A bind mount of the same file system is
        found out by the descent.
        """
        if status.st_dev == self._device or not stat.S_ISDIR(status.st_mode):
            return True
        return mount_id(name, dir_fd=self._place.fd(0)) == self._mount

    def _target(self, name: bytes) -> bytes:
        try:
            return os.readlink(name, dir_fd=self._place.fd(0))
        except OSError:  # it is no link any more, so its directory has changed
            return b""

    def _show(self, directory: bytes, name: bytes) -> None:
        if len(self.paths) < _SHOWN:
            self.paths.append(b"/".join(filter(None, (directory, name))) or b".")

    def _count(self, more: int) -> None:
        self.entries += more
        if self.entries - self._told >= _TICK:
            self._told = self.entries
            self._tick(self.entries)


def _packed(status: os.stat_result, name: bytes, target: bytes) -> bytes:
    is_directory = stat.S_ISDIR(status.st_mode)
    return _ENTRY.pack(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        0 if is_directory else status.st_size,
        status.st_rdev,
        0 if is_directory else status.st_mtime_ns,
        len(name),
        len(target),
    )
