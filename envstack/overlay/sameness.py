"""Whether two entries of layers look the same to a user: bytes, mode, owner, attributes, target.

Times are no part of it. Entries are looked at by name in open directories, and may vanish.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

from envstack.model import FileKind
from envstack.overlay import xattrs
from envstack.overlay.content import same_bytes
from envstack.overlay.marks import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from envstack.overlay.descent import Descent
    from envstack.overlay.merged import Entry, LayerTree

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.DIR,
    stat.S_IFLNK: FileKind.SYMLINK,
}


def go_on() -> None:
    """Never give up: the `tick` of those who wait for the end."""


class Sameness:
    """Compares entries at the place of a descent; `tick` is called before each MiB."""

    def __init__(
        self, place: Descent, trees: tuple[LayerTree, ...], tick: Callable[[], None] = go_on
    ) -> None:
        self._place = place
        self._trees = trees
        self._tick = tick

    def same(self, name: bytes, old: Entry, new: Entry) -> bool:
        """Whether two entries look the same, the cheap questions first.

        Raises FileNotFoundError where one of them vanished.
        """
        if old.tree == new.tree or os.path.samestat(old.status, new.status):
            return True
        if _outside(old.status) != _outside(new.status):
            return False
        if self._attributes(name, old) != self._attributes(name, new):
            return False
        kind = kind_of(new.status.st_mode)
        if kind is FileKind.SYMLINK:
            return self._target(name, old) == self._target(name, new)
        return kind is not FileKind.FILE or self._same_file(name, old, new)

    def _attributes(self, name: bytes, entry: Entry) -> dict[str, bytes | None]:
        stored = visible(entry.attributes, self._trees[entry.tree].marks)
        if not stored:
            return {}
        where = xattrs.beneath(self._place.fd(entry.tree), name)
        return {shown: xattrs.value(where, attribute) for shown, attribute in stored.items()}

    def _target(self, name: bytes, entry: Entry) -> bytes:
        return os.readlink(name, dir_fd=self._place.fd(entry.tree))

    def _same_file(self, name: bytes, old: Entry, new: Entry) -> bool:
        with ExitStack() as files:
            one, other = (self._open(name, entry, files) for entry in (old, new))
            return same_bytes(one, other, new.status.st_size, self._tick)

    def _open(self, name: bytes, entry: Entry, files: ExitStack) -> int:
        """Open a regular file; raises FileNotFoundError if it is something else by now."""
        try:
            file = os.open(name, _FILE, dir_fd=self._place.fd(entry.tree))
        except OSError as fault:
            if fault.errno in (errno.ELOOP, errno.ENXIO):  # a symlink, a socket
                raise FileNotFoundError(errno.ENOENT, "no longer a regular file", name) from fault
            raise
        files.callback(os.close, file)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileNotFoundError(errno.ENOENT, "no longer a regular file", name)
        return file


def kind_of(mode: int) -> FileKind:
    """Return what kind of entry one of this `st_mode` is to a user."""
    return _KINDS.get(stat.S_IFMT(mode), FileKind.OTHER)


def _outside(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return what stat(2) tells of an entry that a user would call its own: no times, no inode."""
    mode = status.st_mode
    extent = status.st_size if stat.S_ISREG(mode) or stat.S_ISLNK(mode) else 0
    device = status.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
    return mode, status.st_uid, status.st_gid, device or extent
