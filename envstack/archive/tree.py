"""The directories beneath one root: found by path, made when they are missing, dated at the end.

Every way to one is taken by openat2(2) beneath the root and through no symbolic link, and what is
made in it is made with its descriptor and one name. The root is nobody else's meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from envstack.archive.reading import shown
from envstack.linux.removal import remove_at
from envstack.linux.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)
from envstack.overlay import xattrs
from envstack.overlay.marks import Marks, is_whiteout

if TYPE_CHECKING:
    from envstack.archive.reading import Reading

_PLACE = os.O_PATH | os.O_DIRECTORY
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_USUAL = 0o755
"""The mode of directories that no member has brought."""
_MOST_OPEN = 64
"""Parents whose descriptors are kept: members of one directory mostly follow one another."""


class Tree:
    """Paths are clean, those of the root itself empty. Descriptors are for `dir_fd` alone.

    A directory that is made on the way to another is root's, with mode 0755, and of the time
    `mtime_ns`. Methods raise OSError, and Unsafe where the way is not one of directories.
    """

    def __init__(self, root: bytes, reading: Reading, marks: Marks) -> None:
        self.mtime_ns = 0
        self._reading = reading
        self._marks = marks
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: dict[bytes, int] = {}
        # A directory's time is set at the end: whatever is made in it changes that.
        self._times = {b"": os.fstat(self._root).st_mtime_ns}

    def close(self) -> None:
        """Let all descriptors go."""
        while self._open:
            os.close(self._open.popitem()[1])
        os.close(self._root)

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """Return the directory that `path` is in, and its name there.

        The descriptor is good until another parent is asked for.
        """
        above, _, name = path.rpartition(b"/")
        found = self._open.get(above) if above else self._root
        return self.directory(above) if found is None else found, name or b"."

    def directory(self, path: bytes) -> int:
        """Return a descriptor of the directory `path`, which is made if it is not there."""
        missing: list[bytes] = []
        at = path
        while (found := self._find(at)) is None:
            at, _, name = at.rpartition(b"/")
            missing.append(name)
        while missing:
            name = missing.pop()
            at = b"%b/%b" % (at, name) if at else name
            self._enter(at, name, found)
            found = self._keep(at, openat2(name, _PLACE, _BENEATH, dir_fd=found))
        return found

    def _find(self, path: bytes) -> int | None:
        """Return a descriptor of a directory, None if there is none by that way."""
        found = self._open.get(path) if path else self._root
        if found is not None:
            return found
        try:
            return self._keep(path, openat2(path, _PLACE, _BENEATH, dir_fd=self._root))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise

    def _enter(self, path: bytes, name: bytes, parent: int) -> None:
        """Have a directory there that no member has brought as yet."""
        there = self.mkdir(name, parent)
        if stat.S_ISLNK(there):
            raise self._reading.unsafe(f"its name passes through a symbolic link, {shown(path)}")
        if there and not stat.S_ISDIR(there):
            raise self._reading.unsafe(f"it lies in {shown(path)}, which is no directory")
        if not there:
            self._reading.count_entry()
            os.chown(name, 0, 0, dir_fd=parent, follow_symlinks=False)
            os.chmod(name, _USUAL, dir_fd=parent)
            self._times[path] = self.mtime_ns

    def mkdir(self, name: bytes, parent: int) -> int:
        """Make a directory and return 0, or return the mode of what is there."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            status = self.status(name, parent)
            if not is_whiteout(status):
                return status.st_mode
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)
            self.hide(name, parent)
        return 0

    def status(self, name: bytes, parent: int) -> os.stat_result:
        """Return what is there, a symbolic link itself."""
        return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def hide(self, name: bytes, parent: int) -> None:
        """Make a directory opaque: what the layers below hold in it is not seen."""
        where = xattrs.beneath(parent, name)
        os.setxattr(where, f"{self._marks.prefix}opaque", b"y", follow_symlinks=False)

    def open_there(self, path: bytes) -> int:
        """Return a descriptor of a directory that is there, which is the caller's to close."""
        return openat2(path or b".", _PLACE, _BENEATH, dir_fd=self._root)

    def remove(self, path: bytes, name: bytes, parent: int) -> None:
        """Delete what an earlier member made, with all that is in it."""
        below = path + b"/"
        for kept in [at for at in self._open if at == path or at.startswith(below)]:
            os.close(self._open.pop(kept))
        remove_at(parent, name)

    def _keep(self, path: bytes, directory: int) -> int:
        if len(self._open) >= _MOST_OPEN:
            os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = directory
        return directory

    def date(self, path: bytes, time_ns: int) -> None:
        """Give a directory this time at the end."""
        self._times[path] = time_ns

    def put_times(self) -> None:
        """Give directories their times, those that were replaced since left out."""
        for path, time_ns in self._times.items():
            above, _, name = path.rpartition(b"/")
            parent = self._find(above)
            if parent is None:
                continue
            with suppress(FileNotFoundError):
                if stat.S_ISDIR(self.status(name or b".", parent).st_mode):
                    os.utime(name or b".", ns=(time_ns, time_ns), dir_fd=parent)
