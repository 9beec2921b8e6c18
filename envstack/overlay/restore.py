"""A merged tree is made what layers show, through its mount, while others live in it.

As git does it: a directory stays the one that it is wherever that can be; a file is never written
into, but replaced by another one in one rename(2), for somebody may have it mapped; where bytes are
right the rest is put right in place. No link is followed: every name is taken in an open directory.
What somebody changed since it was looked at is left alone, and told.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from envstack.overlay.care import status_at, status_here
from envstack.overlay.content import copy_bytes, same_bytes
from envstack.overlay.descent import Descent
from envstack.overlay.dress import Spot, dress
from envstack.overlay.entry import put_link
from envstack.overlay.exactly import How
from envstack.overlay.sameness import go_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.overlay.care import Care
    from envstack.overlay.exactly import Make, Plan

_MERGED = 0
_ROOT = b"."
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.ELOOP}
"""What is answered where somebody made, removed or replaced a name at this moment."""


def temporary(upper: str) -> bytes:
    """Return the name under which entries are made in the merged tree on `upper`, before their own.

    There is but one, so that an entry which was left behind is known for what it is.
    """
    return b".envstack-" + os.fsencode(upper)


class Restoration:
    """Makes the tree at `merged` what `plan` says, as far as `care` allows.

    `late` are the paths that were left alone, because somebody was there first.
    """

    def __init__(self, merged: bytes, plan: Plan, care: Care, temporary: bytes) -> None:
        trees = dict.fromkeys(make.tree for make in (*plan.made, *plan.on_the_way))
        self._number = {tree: number for number, tree in enumerate(trees, _MERGED + 1)}
        self._merged = merged
        self._roots = [merged, *(tree.path for tree in trees)]
        self._plan = plan
        self._care = care
        self._temporary = temporary
        self._first = dict(plan.first)
        self._times: dict[bytes, tuple[int, int]] = {}
        self._own: set[int] = set()
        self.late: list[bytes] = []

    def run(self) -> Iterator[bytes]:
        """Do all of it; yields each path before anything is done to it, a directory once more.

        Raises OSError with the path in the merged tree as its filename; what was done by then
        stays. Done again with another plan, it goes on where it was.
        """
        with Descent(self._roots) as self._place:
            for path in self._plan.gone:
                yield path
                with self._naming(path):
                    self._remove(path, self._place.go_to(path))
            for make in self._plan.made:
                yield make.path
                with self._naming(make.path):
                    self._make(make, self._place.go_to(make.path))
            for make in self._plan.on_the_way:
                with self._naming(make.path):
                    source = self._source(make, self._place.go_to(make.path))
                    self._times[make.path] = _times(source)
            # Last, for a directory's own time changes with what is in it.
            for path in sorted(self._times, key=lambda path: path.split(b"/"), reverse=True):
                yield path
                with self._naming(path):
                    self._put_back_time(path, self._place.go_to(path))

    @contextmanager
    def _naming(self, path: bytes) -> Iterator[None]:
        """Note that somebody was there first; let any other OSError say which path it is about."""
        try:
            yield
        except OSError as fault:
            if fault.errno in _TAKEN:
                self.late.append(path)
                return
            fault.filename, fault.filename2 = path, None
            raise

    def _remove(self, path: bytes, name: bytes) -> None:
        status = status_here(self._place, name)
        if status is None:
            return
        if not self._allows(path, status):
            self.late.append(path)
            return
        self._note_time()
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(name, dir_fd=self._here())
            self._times.pop(path, None)
        else:
            os.unlink(name, dir_fd=self._here())

    def _make(self, make: Make, name: bytes) -> None:
        source = self._source(make, name)
        now = status_here(self._place, name)
        if not self._allows(make.path, now):
            self.late.append(make.path)
        elif stat.S_ISDIR(source.st_mode):
            self._make_directory(make, name, source, now)
        elif now is not None and self._is_right(make, name, source, now):
            self._dress(make, name, name)
            os.utime(name, ns=_times(source), dir_fd=self._here(), follow_symlinks=False)
            self._done(make, source, now)
        else:
            self._replace(make, name, source)

    def _source(self, make: Make, name: bytes) -> os.stat_result:
        """Return what the layer has. Raises OSError EIO where that is gone."""
        try:
            directory = self._place.fd(self._number[make.tree])
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError as fault:
            raise OSError(errno.EIO, "the layer has lost it", name) from fault

    def _make_directory(
        self, make: Make, name: bytes, source: os.stat_result, now: os.stat_result | None
    ) -> None:
        if now is None or not stat.S_ISDIR(now.st_mode):
            self._note_time()
            if now is not None:
                os.unlink(name, dir_fd=self._here())
            os.mkdir(name, 0o700, dir_fd=self._here())
        self._dress(make, name, name)
        self._times[make.path] = _times(source)

    def _is_right(
        self, make: Make, name: bytes, source: os.stat_result, now: os.stat_result
    ) -> bool:
        """Tell whether the file that is there can stay, with another look."""
        if make.how is How.REPLACE or stat.S_IFMT(now.st_mode) != stat.S_IFMT(source.st_mode):
            return False
        first = self._first_of(make, source)
        if first is not None:
            return _is_same_file(self._merged, first, now)
        is_known = make.how is How.DRESS and make.path in self._care.seen
        return is_known or self._is_same_content(make, name, source, now)

    def _is_same_content(
        self, make: Make, name: bytes, source: os.stat_result, now: os.stat_result
    ) -> bool:
        there = self._place.fd(self._number[make.tree])
        if stat.S_ISLNK(source.st_mode):
            return os.readlink(name, dir_fd=there) == os.readlink(name, dir_fd=self._here())
        if not stat.S_ISREG(source.st_mode):
            return source.st_rdev == now.st_rdev
        if source.st_size != now.st_size:
            return False
        with ExitStack() as files:
            one = _opened(name, _READ, there, files)
            other = _opened(name, _READ, self._here(), files)
            return same_bytes(one, other, source.st_size, go_on)

    def _replace(self, make: Make, name: bytes, source: os.stat_result) -> None:
        """Make the entry under another name, and give it its own in one step."""
        self._note_time()
        first = self._first_of(make, source)
        try:
            if first is not None:
                put_link(self._merged, first, self._here(), self._temporary)
            else:
                self._copy(make, name, source)
            made = os.stat(self._temporary, dir_fd=self._here(), follow_symlinks=False)
            is_allowed = self._take_place(make.path, name)
        except BaseException:
            self._drop_temporary()
            raise
        if is_allowed:
            self._done(make, source, made)
        else:
            self.late.append(make.path)
        if first is not None or not is_allowed:
            # It is still there if it is a name of the very file that it was to replace (rename(2)).
            self._drop_temporary()

    def _take_place(self, path: bytes, name: bytes) -> bool:
        """Put what was made in the place of what is there, unless that changed meanwhile."""
        now = status_here(self._place, name)
        if not self._allows(path, now):
            return False
        if now is not None and stat.S_ISDIR(now.st_mode):
            os.rmdir(name, dir_fd=self._here())
            self._times.pop(path, None)
        os.rename(self._temporary, name, src_dir_fd=self._here(), dst_dir_fd=self._here())
        return True

    def _drop_temporary(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._temporary, dir_fd=self._here())

    def _copy(self, make: Make, name: bytes, source: os.stat_result) -> None:
        there, kind = self._place.fd(self._number[make.tree]), stat.S_IFMT(source.st_mode)
        if kind == stat.S_IFREG:
            with ExitStack() as files:
                original = _opened(name, _READ, there, files)
                copy = _opened(self._temporary, _WRITE, self._here(), files)
                copy_bytes(original, copy, go_on)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=there), self._temporary, dir_fd=self._here())
        else:
            os.mknod(self._temporary, kind | 0o600, source.st_rdev, dir_fd=self._here())
        self._dress(make, name, self._temporary)
        os.utime(self._temporary, ns=_times(source), dir_fd=self._here(), follow_symlinks=False)

    def _dress(self, make: Make, name: bytes, target: bytes) -> None:
        original = Spot(self._place.fd(self._number[make.tree]), name)
        dress(original, make.tree.marks, Spot(self._here(), target))

    def _put_back_time(self, path: bytes, name: bytes) -> None:
        now = status_here(self._place, name)
        accessed, modified = self._times[path]
        if now is not None and stat.S_ISDIR(now.st_mode) and now.st_mtime_ns != modified:
            times = accessed, modified
            os.utime(name, ns=times, dir_fd=self._here(), follow_symlinks=False)

    def _note_time(self) -> None:
        """Remember the time of the directory here, before something is done in it."""
        directory = self._place.path(b"").rstrip(b"/") or _ROOT
        if directory not in self._times:
            self._times[directory] = _times(os.stat(self._here()))

    def _allows(self, path: bytes, now: os.stat_result | None) -> bool:
        """Tell whether a path may be changed; what was done here to one name shows at all."""
        is_own = now is not None and now.st_ino in self._own
        return is_own or self._care.allows(path, now)

    def _first_of(self, make: Make, source: os.stat_result) -> bytes | None:
        """Return the path that stands for the same file of the layer, if there is one by now."""
        first = self._first.get((make.tree, source.st_ino)) if source.st_nlink > 1 else None
        return None if first == make.path else first

    def _done(self, make: Make, source: os.stat_result, made: os.stat_result) -> None:
        if source.st_nlink > 1:
            self._first.setdefault((make.tree, source.st_ino), make.path)
        if max(source.st_nlink, made.st_nlink) > 1:
            self._own.add(made.st_ino)

    def _here(self) -> int:
        return self._place.fd(_MERGED)


def _times(status: os.stat_result) -> tuple[int, int]:
    return status.st_atime_ns, status.st_mtime_ns


def _opened(name: bytes, flags: int, directory: int, files: ExitStack) -> int:
    opened = os.open(name, flags, 0o600, dir_fd=directory)
    files.callback(os.close, opened)
    return opened


def _is_same_file(merged: bytes, path: bytes, status: os.stat_result) -> bool:
    with Descent([merged]) as place:
        other = status_at(place, path)
    return other is not None and os.path.samestat(other, status)
