"""Members become entries beneath one directory, whatever their names say.

Every way to a parent is taken by openat2(2) beneath the root and through no symbolic link; what is
made is made with the parent's descriptor and one name. Nothing of the tree is opened but what was
just made, so no member writes through another. The root is nobody else's meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from envstack.archive.member import Kind
from envstack.archive.reading import shown
from envstack.linux.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)
from envstack.overlay import xattrs
from envstack.overlay.marks import Marks, is_whiteout
from envstack.store.removal import remove_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from envstack.archive.member import Member
    from envstack.archive.reading import Reading

_PLACE = os.O_PATH | os.O_DIRECTORY
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_MOST_OPEN = 64
"""Parents whose descriptors are kept: members of one directory mostly follow one another."""
_TYPES = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}
_USUAL = 0o755
"""The mode of directories that no member has brought."""
_LONGEST = 4095
"""PATH_MAX without the NUL: what no program could open is not made."""
_SPACES = ("user.", "trusted.", "security.", "system.posix_acl_")
"""Of extended attributes: others belong to one file system and mean nothing on another."""
_LABELS = ("security.selinux", "security.ima", "security.evm")
"""What the machine that made an archive said of its own files."""


def clean(name: bytes, reading: Reading) -> bytes:
    """Return the path beneath the root that a name stands for; the root itself is empty.

    A leading slash is left out, as tar(1) does. Raises Unsafe for what leads upwards.
    """
    parts = name.split(b"/")
    if b".." in parts:
        raise reading.unsafe("its name holds `..`")
    if b"" in parts or b"." in parts:
        name = b"/".join(part for part in parts if part not in (b"", b"."))
    if b"\0" in name or len(name) > _LONGEST:
        raise reading.unsafe("its name can be no file's")
    return name


class Writer:
    """A context manager that makes entries beneath the directory `root`.

    Of two members of one path the last counts; a directory that was there keeps what is in it.
    Directories that no member has brought are root's, with mode 0755
    and the time of the member that needed them. Each method works for the member
    that the `Reading` is at, and raises Unsafe, TooLarge, and EnvstackError for what the kernel
    refuses; what was made by then stays. `marks` are those of the layer: attributes of a member
    that would be such are escaped, as the kernel does, so that they hide nothing.
    """

    def __init__(self, root: bytes, reading: Reading, marks: Marks = Marks.TRUSTED) -> None:
        self._reading = reading
        self._marks = marks
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: dict[bytes, int] = {}
        # A directory's time is set at the end: whatever is made in it changes that.
        self._times = {b"": os.fstat(self._root).st_mtime_ns}
        self._mtime_ns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._put_times()
        finally:
            self._forget()
            os.close(self._root)

    def put(self, member: Member) -> None:
        """Make what the member says."""
        try:
            self._put(member)
        except OSError as error:
            raise self._reading.failed(error) from error

    def whiteout(self, name: bytes) -> None:
        """Hide what the layers below hold under a name; what this one holds there stays."""
        path = clean(name, self._reading)
        self._reading.count_entry()
        try:
            parent, last = self._parent(path)
            try:
                os.mknod(last, stat.S_IFCHR, 0, dir_fd=parent)
            except FileExistsError:
                if stat.S_ISDIR(self._status(last, parent).st_mode):
                    self._hide(last, parent)
        except OSError as error:
            raise self._reading.failed(error) from error

    def opaque(self, name: bytes) -> None:
        """Hide what the layers below hold in a directory; one that is not there is made.

        The kernel does not ask it of the root: whoever stacks layers leaves out those below it.
        """
        path = clean(name, self._reading)
        try:
            self._directory(path)
            parent, last = self._parent(path)
            self._hide(last or b".", parent)
        except OSError as error:
            raise self._reading.failed(error) from error

    def _put(self, member: Member) -> None:
        self._reading.count_entry()
        path = clean(member.name, self._reading)
        self._mtime_ns = member.mtime_ns
        if member.kind is Kind.DIRECTORY:
            self._put_directory(member, path)
            return
        if not path:
            raise self._reading.unsafe("it stands for the root, and is no directory")
        if member.kind is Kind.FILE:
            self._put_file(member, path)
        elif member.kind is Kind.LINK:
            self._put_link(member, path)
        elif member.kind is Kind.SYMLINK:
            self._put_named(member, path, partial(os.symlink, member.target))
        else:
            self._put_named(member, path, partial(self._make_node, member))

    def _put_file(self, member: Member, path: bytes) -> None:
        self._reading.count_bytes(member.size)
        parent, name = self._parent(path)
        try:
            file = os.open(name, _FRESH, 0o600, dir_fd=parent)
        except FileExistsError:
            self._remove(path, name, parent)
            file = os.open(name, _FRESH, 0o600, dir_fd=parent)
        try:
            end = 0
            for offset, piece in member.pieces:
                end = _write(file, piece, offset)
            if end < member.size:
                os.ftruncate(file, member.size)
            os.fchown(file, member.uid, member.gid)
            os.fchmod(file, member.mode)
            if member.xattrs:
                self._put_xattrs(file, member.xattrs)
            os.utime(file, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(file)

    def _put_directory(self, member: Member, path: bytes) -> None:
        parent, name = self._parent(path) if path else (self._root, b".")
        there = self._mkdir(name, parent)
        if there and not stat.S_ISDIR(there):
            self._remove(path, name, parent)
            there = self._mkdir(name, parent)
        where = xattrs.beneath(parent, name)
        if there:
            for attribute in xattrs.names(where):
                if not self._marks.is_private(attribute):
                    os.removexattr(where, attribute, follow_symlinks=False)
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        os.chmod(name, member.mode, dir_fd=parent)
        self._put_xattrs(where, member.xattrs)
        self._times[path] = member.mtime_ns

    def _put_link(self, member: Member, path: bytes) -> None:
        target = clean(member.target, self._reading)
        if target == path:
            raise self._reading.unsafe("it is a hard link to itself")
        above, _, first = target.rpartition(b"/")
        try:
            # Not one of those that are kept: to make room for the other parent it might be closed.
            origin = openat2(above or b".", _PLACE, _BENEATH, dir_fd=self._root)
        except OSError as error:
            raise self._no_target(member) from error
        try:
            parent, name = self._parent(path)
            make = partial(os.link, first, src_dir_fd=origin, follow_symlinks=False)
            try:
                make(name, dst_dir_fd=parent)
            except FileExistsError:
                self._remove(path, name, parent)
                make(name, dst_dir_fd=parent)
        except (FileNotFoundError, PermissionError) as error:
            raise self._no_target(member) from error
        finally:
            os.close(origin)

    def _put_named(self, member: Member, path: bytes, make: Callable[..., None]) -> None:
        """Make what is never opened: a symbolic link, a FIFO, a device."""
        parent, name = self._parent(path)
        try:
            make(name, dir_fd=parent)
        except FileExistsError:
            self._remove(path, name, parent)
            make(name, dir_fd=parent)
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if member.kind is not Kind.SYMLINK:
            os.chmod(name, member.mode, dir_fd=parent)
        self._put_xattrs(xattrs.beneath(parent, name), member.xattrs)
        times = member.mtime_ns, member.mtime_ns
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _make_node(self, member: Member, name: bytes, *, dir_fd: int) -> None:
        if member.kind is Kind.CHARACTER and member.device == 0:
            raise self._reading.unsafe("it is a character device 0:0, which hides a file below")
        os.mknod(name, _TYPES[member.kind] | 0o600, member.device, dir_fd=dir_fd)

    def _put_xattrs(self, where: xattrs.Where, found: tuple[tuple[str, bytes], ...]) -> None:
        """Set them, after bytes and owner: a change of those takes capabilities away."""
        for attribute, value in found:
            if attribute.startswith(_SPACES) and attribute not in _LABELS:
                if attribute.startswith(self._marks.prefix):
                    attribute = attribute.replace(self._marks.prefix, self._marks.escape, 1)
                os.setxattr(where, attribute, value, follow_symlinks=isinstance(where, int))

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        """Return the directory that `path` is in, and its name there.

        The descriptor is good until another parent is asked for.
        """
        above, _, name = path.rpartition(b"/")
        found = self._open.get(above) if above else self._root
        return self._directory(above) if found is None else found, name

    def _directory(self, path: bytes) -> int:
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
        there = self._mkdir(name, parent)
        if stat.S_ISLNK(there):
            raise self._reading.unsafe(f"its name passes through a symbolic link, {shown(path)}")
        if there and not stat.S_ISDIR(there):
            raise self._reading.unsafe(f"it lies in {shown(path)}, which is no directory")
        if not there:
            self._reading.count_entry()
            os.chown(name, 0, 0, dir_fd=parent, follow_symlinks=False)
            os.chmod(name, _USUAL, dir_fd=parent)
            self._times[path] = self._mtime_ns

    def _mkdir(self, name: bytes, parent: int) -> int:
        """Make a directory and return 0, or return the mode of what is there."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            status = self._status(name, parent)
            if not is_whiteout(status):
                return status.st_mode
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)
            self._hide(name, parent)
        return 0

    def _status(self, name: bytes, parent: int) -> os.stat_result:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def _hide(self, name: bytes, parent: int) -> None:
        """Make a directory opaque."""
        where = xattrs.beneath(parent, name)
        os.setxattr(where, f"{self._marks.prefix}opaque", b"y", follow_symlinks=False)

    def _remove(self, path: bytes, name: bytes, parent: int) -> None:
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

    def _put_times(self) -> None:
        """Give directories their times, those that were replaced since left out."""
        try:
            for path, time_ns in self._times.items():
                above, _, name = path.rpartition(b"/")
                parent = self._find(above)
                if parent is None:
                    continue
                with suppress(FileNotFoundError):
                    if stat.S_ISDIR(self._status(name or b".", parent).st_mode):
                        os.utime(name or b".", ns=(time_ns, time_ns), dir_fd=parent)
        except OSError as error:
            raise self._reading.failed(error) from error

    def _forget(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def _no_target(self, member: Member) -> Exception:
        return self._reading.unsafe(
            f"it is a hard link to {shown(member.target)}, which is no file of the archive"
        )


def _write(file: int, piece: bytes | memoryview, offset: int) -> int:
    """Write all of a piece, and return where it ends."""
    while (written := os.pwrite(file, piece, offset)) < len(piece):
        piece = piece[written:]
        offset += written
    return offset + written
