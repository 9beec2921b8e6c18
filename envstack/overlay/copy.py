"""Copying a directory tree into a layer: all that a lower layer by reference would show of it.

A directory's own metadata when all is in it. The source may be in use: what vanishes while it is
copied is left out.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.errors import Unsupported
from envstack.overlay import xattrs
from envstack.overlay.content import copy_bytes
from envstack.overlay.descent import Descent
from envstack.overlay.entry import WRITE, attributes, open_to_read, put_link, put_metadata
from envstack.overlay.marks import Marks, is_whiteout
from envstack.overlay.merged import listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envstack.overlay.entry import Attributes

_SOURCE, _TARGET = 0, 1
_ROOT = b"."
_TICK = 256
"""Entries between two calls of `tick`."""
_ATTEMPTS = 3
_REPLACED = {errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EINVAL}
"""What opening a file and readlink(2) answer when the entry is another one by now."""


def copy_tree(
    source: bytes, target: bytes, *, tick: Callable[[int], None], marks: Marks = Marks.TRUSTED
) -> None:
    """Copy what the directory `source` holds, and its own metadata, into the empty `target`.

    Hard links within the tree stay hard links, holes stay holes. A directory that another mount
    covers is copied as an empty one. Overlay attributes (of `marks`) that hide what lies below are
    kept, those that tie an entry to other layers are not. `tick` is called with the number of
    entries copied so far, now and then and at the end; what it raises ends the copying.

    Raises errors.Unsupported for an entry that no copy can stand for (a whiteout device, overlay
    redirects and metacopies), and OSError with the path in `source` as its filename (ENOSPC and
    the like). What was copied by then stays in `target`.
    """
    with Descent([source, target]) as place:
        _Copy(place, target, tick, marks).run()


@dataclass(frozen=True, slots=True)
class _Found:
    """All that is to be known of an entry of the source; `file` is open if it is a regular one."""

    status: os.stat_result
    attributes: Attributes
    target: bytes = b""
    file: int = -1


@dataclass(frozen=True, slots=True)
class _Frame:
    """A directory being copied, and the names in it that are still to come."""

    found: _Found
    names: list[bytes]


class _Copy:
    """The walk. It keeps a stack of its own: trees are deeper than Python's recursion goes."""

    def __init__(
        self, place: Descent, target: bytes, tick: Callable[[int], None], marks: Marks
    ) -> None:
        self._place = place
        self._target = target
        self._tick = tick
        self._marks = marks
        self._count = 0
        self._links: dict[tuple[int, int, int], bytes] = {}

    def run(self) -> None:
        with self._naming(_ROOT), ExitStack() as files:
            root = self._read(_ROOT, os.stat(self._place.fd(_SOURCE)), files)
        frames = [_Frame(root, listing(self._place, _SOURCE))]
        while frames:
            frame = frames[-1]
            if frame.names:
                self._next(frames, frame.names.pop())
                continue
            frames.pop()
            name = self._place.leave() if frames else _ROOT
            with self._naming(name):
                self._put_metadata(name, frame.found)
        self._tick(self._count)

    @contextmanager
    def _naming(self, name: bytes) -> Iterator[None]:
        """Let an OSError say which entry of the source it is about."""
        try:
            yield
        except OSError as fault:
            fault.filename = self._place.full_path(_SOURCE, name)
            fault.filename2 = None
            raise

    def _next(self, frames: list[_Frame], name: bytes) -> None:
        with self._naming(name), ExitStack() as files:
            found = self._look(name, files)
            if found is None:
                return
            if stat.S_ISDIR(found.status.st_mode):
                os.mkdir(name, 0o700, dir_fd=self._place.fd(_TARGET))
            else:
                self._put(name, found)
        if stat.S_ISDIR(found.status.st_mode):
            self._place.enter(name)
            frames.append(_Frame(found, listing(self._place, _SOURCE)))
        self._count += 1
        if self._count % _TICK == 0:
            self._tick(self._count)

    def _look(self, name: bytes, files: ExitStack) -> _Found | None:
        """Read an entry, anew if it was replaced meanwhile; None if there is none any more."""
        for attempt in range(_ATTEMPTS):
            try:
                status = os.stat(name, dir_fd=self._place.fd(_SOURCE), follow_symlinks=False)
            except FileNotFoundError:
                return None
            try:
                return self._read(name, status, files)
            except OSError as fault:
                if fault.errno not in _REPLACED or attempt == _ATTEMPTS - 1:
                    raise
        return None

    def _read(self, name: bytes, status: os.stat_result, files: ExitStack) -> _Found:
        dirfd = self._place.fd(_SOURCE)
        if is_whiteout(status):
            path = self._place.full_path(_SOURCE, name).decode(errors="replace")
            raise Unsupported(
                f"{path} is a character device 0:0, which in a layer means a deleted name",
                "delete it, or take the directory by reference instead of copying it",
            )
        if stat.S_ISREG(status.st_mode):
            file = open_to_read(name, dirfd)
            files.callback(os.close, file)
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, "No longer a regular file", name)
            return _Found(status, self._attributes(name, file), file=file)
        attributes = self._attributes(name, xattrs.beneath(dirfd, name))
        if stat.S_ISLNK(status.st_mode):
            return _Found(status, attributes, target=os.readlink(name, dir_fd=dirfd))
        return _Found(status, attributes)

    def _attributes(self, name: bytes, where: xattrs.Where) -> Attributes:
        return attributes(self._place.full_path(_SOURCE, name), where, self._marks)

    def _put(self, name: bytes, found: _Found) -> None:
        """Make what is no directory; another name of what is there already becomes a link."""
        status = found.status
        # A change of the inode's time means that the number may be another file's by now.
        inode = status.st_dev, status.st_ino, status.st_ctime_ns
        if inode in self._links:
            put_link(self._target, self._links[inode], self._place.fd(_TARGET), name)
            return
        dirfd, kind = self._place.fd(_TARGET), stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            self._put_file(name, found)
        elif kind == stat.S_IFLNK:
            os.symlink(found.target, name, dir_fd=dirfd)
        else:
            os.mknod(name, kind | 0o600, status.st_rdev, dir_fd=dirfd)
        self._put_metadata(name, found)
        if status.st_nlink > 1:
            self._links[inode] = self._place.path(name)

    def _put_file(self, name: bytes, found: _Found) -> None:
        target = os.open(name, WRITE, 0o600, dir_fd=self._place.fd(_TARGET))
        try:
            copy_bytes(found.file, target, lambda: self._tick(self._count))
        finally:
            os.close(target)

    def _put_metadata(self, name: bytes, found: _Found) -> None:
        put_metadata(self._place.fd(_TARGET), name, found.status, found.attributes)
