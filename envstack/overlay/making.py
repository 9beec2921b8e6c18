"""A layer in the making: entries of other trees are put into it, one by one, at any path.

What is put is whole: the bytes of a file are those of one moment, or it is said that they are not.
Which entries are to be put, and what the layer will lie on, is the business of others (`delta`,
`compared`).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.linux.lease import is_open_for_writing
from envstack.linux.removal import remove
from envstack.overlay import xattrs
from envstack.overlay.content import copy_bytes, same_bytes
from envstack.overlay.descent import Descent
from envstack.overlay.entry import (
    WRITE,
    Attributes,
    attributes,
    open_to_read,
    put_link,
    put_metadata,
)
from envstack.overlay.listed import Facts, facts_of, is_young
from envstack.overlay.marks import Marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

_LAYER = 0
_MARKS = Marks.TRUSTED
_OPAQUE = f"{_MARKS.prefix}opaque"
_TRIES = 3

_ANOTHER_KIND = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EINVAL, errno.EISDIR})
"""What opening a file and readlink(2) answer when the entry is of another kind by now."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What was put: the facts of the entry, taken before its bytes were read.

    `doubtful`: its bytes may change, or have changed, with the same facts. Unless `whole` they are
    of more than one moment.
    """

    facts: Facts
    doubtful: bool = False
    whole: bool = True


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory of the layer: what it is given in the end."""

    status: os.stat_result
    attributes: Attributes


class Making:
    """The layer is the directory `layer`, empty at first; `sources` are trees, the topmost first.

    `grain` is that of time stamps. `tick` is called now and then and may raise. A context manager;
    before it ends `finish` is to be called.
    """

    def __init__(
        self, layer: bytes, sources: Sequence[bytes], grain: int, tick: Callable[[], None]
    ) -> None:
        self._place = Descent([layer, *sources])
        self._count = len(sources)
        self._grain = grain
        self._tick = tick
        self._directories: dict[bytes, _Directory] = {}
        self._links: dict[tuple[int, int, int], tuple[bytes, Copied]] = {}
        self.is_empty = True

    def __enter__(self) -> Self:
        self._place.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._place.__exit__(kind, fault, trace)

    def copy(self, path: bytes, source: int = 0) -> Copied | None:
        """Put what is no directory; None where it is gone, or is one by now.

        Names of one file that are put with the same facts become names of one file again.
        """
        self._tick()
        name = self._place.go_to(path)
        try:
            status = os.stat(name, dir_fd=self._place.fd(1 + source), follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) or not self._make_way(path):
                return None
            return self._put_link(name, status) or self._put(path, name, source, status)
        except FileNotFoundError:
            return None
        except OSError as error:
            error.filename, error.filename2 = self._place.full_path(1 + source, name), None
            raise

    def directory(self, path: bytes, *, opaque: bool) -> bool:
        """Put a directory, without what is in it; False where it is gone."""
        if not self._make_way(path) or not self._make(path):
            return False
        if opaque:
            where = xattrs.beneath(self._place.fd(_LAYER), self._place.go_to(path))
            os.setxattr(where, _OPAQUE, b"y", follow_symlinks=False)
        return True

    def hide(self, path: bytes) -> None:
        """Put a whiteout; nothing where the directory that it would be in is gone."""
        name = self._place.go_to(path)
        if self._make_way(path):
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=self._place.fd(_LAYER))
            self.is_empty = False

    def clear(self, path: bytes) -> None:
        """Take out what was put at a path, and all below it."""
        name = self._place.go_to(path)
        if _above(path) not in self._directories and _above(path):
            return
        remove(b"/proc/self/fd/%d/./%s" % (self._place.fd(_LAYER), name))
        below = path + b"/"
        for known in [each for each in self._directories if (each + b"/").startswith(below)]:
            del self._directories[known]
        for inode, (first, _) in list(self._links.items()):
            if (first + b"/").startswith(below):
                del self._links[inode]

    def finish(self) -> None:
        """Give the directories what is theirs, now that all is in them."""
        for path in sorted(self._directories, reverse=True):
            name, found = self._place.go_to(path), self._directories[path]
            put_metadata(self._place.fd(_LAYER), name, found.status, found.attributes)

    def _make_way(self, path: bytes) -> bool:
        """Make the directories that lead to a path; False where one is gone. Stays at the path."""
        above = _above(path)
        if above and above not in self._directories:
            if not self._make_way(above) or not self._make(above):
                return False
            self._place.go_to(path)
        return True

    def _make(self, path: bytes) -> bool:
        """Make a directory that is like the topmost source's, or make it like that anew."""
        name = self._place.go_to(path)
        found = self._read_directory(name)
        if found is None:
            return False
        if path not in self._directories:
            os.mkdir(name, 0o700, dir_fd=self._place.fd(_LAYER))
        self._directories[path] = found
        self.is_empty = False
        return True

    def _read_directory(self, name: bytes) -> _Directory | None:
        for source in range(1, 1 + self._count):
            try:
                dirfd = self._place.fd(source)
                status = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    return _Directory(status, self._attributes(source, name))
            except FileNotFoundError:
                continue
        return None

    def _attributes(self, source: int, name: bytes) -> Attributes:
        """Return the attributes of an entry, the mark of an opaque directory aside."""
        where = xattrs.beneath(self._place.fd(source), name)
        found = attributes(self._place.full_path(source, name), where, _MARKS)
        return tuple(each for each in found if each[0] != _OPAQUE)

    def _put_link(self, name: bytes, status: os.stat_result) -> Copied | None:
        """Make another name of what was put before."""
        first = self._links.get(_inode(status)) if status.st_nlink > 1 else None
        if first is None:
            return None
        put_link(self._place.root(_LAYER), first[0], self._place.fd(_LAYER), name)
        self.is_empty = False
        return first[1]

    def _put(self, path: bytes, name: bytes, source: int, status: os.stat_result) -> Copied | None:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            copied = self._put_file(name, source)
        else:
            copied = self._put_other(name, source, status)
        self.is_empty = False
        if copied is not None and status.st_nlink > 1:
            self._links[_inode(status)] = path, copied
        return copied

    def _put_other(self, name: bytes, source: int, status: os.stat_result) -> Copied:
        found = self._attributes(1 + source, name)
        if stat.S_ISLNK(status.st_mode):
            with _gone_if_another_kind():
                target = os.readlink(name, dir_fd=self._place.fd(1 + source))
            os.symlink(target, name, dir_fd=self._place.fd(_LAYER))
        else:
            mode = stat.S_IFMT(status.st_mode) | 0o600
            os.mknod(name, mode, status.st_rdev, dir_fd=self._place.fd(_LAYER))
        put_metadata(self._place.fd(_LAYER), name, status, found)
        return Copied(facts_of(status))

    def _put_file(self, name: bytes, source: int) -> Copied | None:
        with ExitStack() as files:
            with _gone_if_another_kind():
                file = open_to_read(name, self._place.fd(1 + source))
            files.callback(os.close, file)
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return None
            target = os.open(name, WRITE, 0o600, dir_fd=self._place.fd(_LAYER))
            files.callback(os.close, target)
            return self._fill(name, source, file, target)

    def _fill(self, name: bytes, source: int, file: int, target: int) -> Copied:
        """Copy a file until what was copied is of one moment, a few times."""
        where = self._place.full_path(1 + source, name)
        for attempt in range(_TRIES):
            is_written = is_open_for_writing(file)
            status = os.fstat(file)
            if attempt:
                os.ftruncate(target, 0)
            copy_bytes(file, target, self._tick)
            found = attributes(where, file, _MARKS)
            is_written |= is_open_for_writing(file)
            is_whole = facts_of(os.fstat(file)) == facts_of(status)
            if is_whole and is_written:  # through a mapping, maybe, of which no time stamp tells
                is_whole = same_bytes(file, target, status.st_size, self._tick)
            if is_whole:
                break
        put_metadata(self._place.fd(_LAYER), name, status, found)
        is_doubtful = is_written or is_young(status.st_ctime_ns, self._grain)
        return Copied(facts_of(status), is_doubtful, is_whole)


@contextmanager
def _gone_if_another_kind() -> Iterator[None]:
    """Raise FileNotFoundError for an entry that is of another kind by now."""
    try:
        yield
    except OSError as error:
        if error.errno not in _ANOTHER_KIND:
            raise
        raise FileNotFoundError(errno.ENOENT, "of another kind by now") from error


def _inode(status: os.stat_result) -> tuple[int, int, int]:
    """Return what names of one file have in common; the number alone may be another's by now."""
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _above(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]
