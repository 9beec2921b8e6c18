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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envstack.overlay import xattrs
from envstack.overlay.content import copy_bytes, same_bytes
from envstack.overlay.descent import Descent
from envstack.overlay.exactly import How
from envstack.overlay.marks import visible
from envstack.overlay.sameness import go_on

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from envstack.overlay.exactly import Make, Plan

_MERGED = 0
_ROOT = b"."
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.ELOOP}
"""What is answered where somebody made, removed or replaced a name at this moment."""
_SETTABLE = ("user.", "trusted.", "security.", "system.posix_acl_")
"""The attributes that can be set on a file; others belong to its file system (xattr(7))."""


def temporary(upper: str) -> bytes:
    """Return the name under which entries are made in the merged tree on `upper`, before their own.

    There is but one, so that an entry which was left behind is known for what it is.
    """
    return b".envstack-" + os.fsencode(upper)


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a name: if it looks so again it is what it was.

    `changed` is None for a file with several names, which is changed by what is done to the others.
    """

    kind: int
    ino: int
    size: int
    modified: int
    changed: int | None

    @classmethod
    def of(cls, status: os.stat_result) -> Sight:
        """Return what is to be seen of an entry; of a directory, that it is one."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            return cls(kind, 0, 0, 0, None)
        changed = status.st_ctime_ns if status.st_nlink == 1 else None
        return cls(kind, status.st_ino, status.st_size, status.st_mtime_ns, changed)

    def is_of(self, status: os.stat_result) -> bool:
        """Tell whether an entry still looks so."""
        now = Sight.of(status)
        if self.changed is not None and self.changed != status.st_ctime_ns:
            return False
        return self._lasting() == now._lasting()

    def _lasting(self) -> tuple[int, int, int, int]:
        return self.kind, self.ino, self.size, self.modified


def sights(merged: bytes, paths: Iterable[bytes]) -> dict[bytes, Sight | None]:
    """Return what is seen now at each of `paths` of the tree at `merged`; None for nothing."""
    seen: dict[bytes, Sight | None] = {}
    with Descent([merged]) as place:
        way = _Way(place)
        for path in paths:
            status = way.status(way.to(path))
            seen[path] = None if status is None else Sight.of(status)
    return seen


@dataclass(frozen=True, slots=True)
class Care:
    """What is not to be touched: what is in `kept`, and what looks otherwise than in `seen`."""

    kept: Container[bytes] = frozenset()
    seen: Mapping[bytes, Sight | None] = field(default_factory=dict)

    def allows(self, path: bytes, status: os.stat_result | None) -> bool:
        """Tell whether a path, which is `status` now, may be changed."""
        if path in self.kept:
            return False
        if path not in self.seen:
            return True
        seen = self.seen[path]
        if seen is None or status is None:
            # Nothing is lost where there is nothing any more.
            return status is None
        return seen.is_of(status)


class _Way:
    """Leads a descent from one path to the next; they come best in the order of a walk."""

    def __init__(self, place: Descent) -> None:
        self._place = place
        self._at: list[bytes] = []

    @property
    def directory(self) -> bytes:
        """The path of the directory where it is."""
        return b"/".join(self._at) or _ROOT

    def to(self, path: bytes) -> bytes:
        """Go to the directory that holds `path`, and return the name in it."""
        *parents, name = path.split(b"/")
        common = 0
        while common < min(len(parents), len(self._at)) and parents[common] == self._at[common]:
            common += 1
        while len(self._at) > common:
            self._place.leave()
            self._at.pop()
        for parent in parents[common:]:
            self._place.enter(parent)
            self._at.append(parent)
        return name

    def status(self, name: bytes) -> os.stat_result | None:
        """Return what the merged tree has under a name here, None if that is nothing."""
        try:
            return os.stat(name, dir_fd=self._place.fd(_MERGED), follow_symlinks=False)
        except FileNotFoundError:
            return None


class Restoration:
    """Makes the tree at `merged` what `plan` says, as far as `care` allows.

    `late` are the paths that were left alone, because somebody was there first.
    """

    def __init__(self, merged: bytes, plan: Plan, care: Care, temporary: bytes) -> None:
        trees = dict.fromkeys(make.tree for make in plan.made)
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
            self._way = _Way(self._place)
            for path in self._plan.gone:
                yield path
                with self._naming(path):
                    self._remove(path, self._way.to(path))
            for make in self._plan.made:
                yield make.path
                with self._naming(make.path):
                    self._make(make, self._way.to(make.path))
            # Last, for a directory's own time changes with what is in it.
            for path in sorted(self._times, key=lambda path: path.split(b"/"), reverse=True):
                yield path
                with self._naming(path):
                    self._put_back_time(path, self._way.to(path))

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
        status = self._way.status(name)
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
        now = self._way.status(name)
        if not self._allows(make.path, now):
            self.late.append(make.path)
        elif stat.S_ISDIR(source.st_mode):
            self._make_directory(make, name, source, now)
        elif now is not None and self._is_right(make, name, source, now):
            self._dress(make, name, source)
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
        self._dress(make, name, source)
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
        return make.how is How.DRESS or self._is_same_content(make, name, source, now)

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
        with suppress(FileNotFoundError):  # what a killed daemon left
            os.unlink(self._temporary, dir_fd=self._here())
        try:
            if first is not None:
                self._link(first)
            else:
                self._copy(make, name, source)
            made = os.stat(self._temporary, dir_fd=self._here(), follow_symlinks=False)
            now = self._way.status(name)
            if not self._allows(make.path, now):  # it may have taken its time
                self.late.append(make.path)
                return
            if now is not None and stat.S_ISDIR(now.st_mode):
                os.rmdir(name, dir_fd=self._here())
                self._times.pop(make.path, None)
            os.rename(self._temporary, name, src_dir_fd=self._here(), dst_dir_fd=self._here())
            self._done(make, source, made)
        finally:
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
        self._dress(make, name, source, self._temporary)
        os.utime(self._temporary, ns=_times(source), dir_fd=self._here(), follow_symlinks=False)

    def _link(self, first: bytes) -> None:
        with Descent([self._merged]) as origin:
            name = _Way(origin).to(first)
            os.link(
                name,
                self._temporary,
                src_dir_fd=origin.fd(_MERGED),
                dst_dir_fd=self._here(),
                follow_symlinks=False,
            )

    def _dress(self, make: Make, name: bytes, source: os.stat_result, target: bytes = b"") -> None:
        """Give `target`, or else `name` itself, owner, mode and attributes of the layer's entry."""
        target = target or name
        here = self._here()
        now = os.stat(target, dir_fd=here, follow_symlinks=False)
        is_owned = (now.st_uid, now.st_gid) == (source.st_uid, source.st_gid)
        if not is_owned:
            os.chown(target, source.st_uid, source.st_gid, dir_fd=here, follow_symlinks=False)
        # A change of owner takes some bits of the mode away.
        if not stat.S_ISLNK(source.st_mode) and (now.st_mode != source.st_mode or not is_owned):
            _chmod(target, source.st_mode, here)
        self._put_attributes(make, name, target)

    def _put_attributes(self, make: Make, name: bytes, target: bytes) -> None:
        there = xattrs.beneath(self._place.fd(self._number[make.tree]), name)
        here = xattrs.beneath(self._here(), target)
        stored = visible(xattrs.names(there), make.tree.marks)
        found = ((shown, xattrs.value(there, attribute)) for shown, attribute in stored.items())
        wanted = {shown: value for shown, value in found if value is not None}
        for attribute in xattrs.names(here):
            if attribute not in wanted and attribute.startswith(_SETTABLE):
                os.removexattr(here, attribute, follow_symlinks=False)
        for attribute, value in wanted.items():
            if attribute.startswith(_SETTABLE) and xattrs.value(here, attribute) != value:
                os.setxattr(here, attribute, value, follow_symlinks=False)

    def _put_back_time(self, path: bytes, name: bytes) -> None:
        now = self._way.status(name)
        accessed, modified = self._times[path]
        if now is not None and stat.S_ISDIR(now.st_mode) and now.st_mtime_ns != modified:
            times = accessed, modified
            os.utime(name, ns=times, dir_fd=self._here(), follow_symlinks=False)

    def _note_time(self) -> None:
        """Remember the time of the directory here, before something is done in it."""
        if self._way.directory not in self._times:
            self._times[self._way.directory] = _times(os.stat(self._here()))

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
            self._own.add(made.st_ino)

    def _here(self) -> int:
        return self._place.fd(_MERGED)


def _times(status: os.stat_result) -> tuple[int, int]:
    return status.st_atime_ns, status.st_mtime_ns


def _opened(name: bytes, flags: int, directory: int, files: ExitStack) -> int:
    opened = os.open(name, flags, 0o600, dir_fd=directory)
    files.callback(os.close, opened)
    return opened


def _chmod(name: bytes, mode: int, directory: int) -> None:
    """Change the mode of what the name is now; a symbolic link put in its way is not followed."""
    handle = os.open(name, _HANDLE, dir_fd=directory)
    try:
        if not stat.S_ISLNK(os.fstat(handle).st_mode):
            os.chmod(b"/proc/self/fd/%d" % handle, stat.S_IMODE(mode))
    finally:
        os.close(handle)


def _is_same_file(merged: bytes, path: bytes, status: os.stat_result) -> bool:
    with Descent([merged]) as place:
        way = _Way(place)
        other = way.status(way.to(path))
    return other is not None and os.path.samestat(other, status)
