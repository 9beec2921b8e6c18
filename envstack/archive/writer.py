"""Members become entries beneath one directory, whatever their names say.

Nothing of the tree is opened but what was just made, so no member writes through another; the ways
to the parents are the business of `tree`.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING

from envstack.archive.member import Kind
from envstack.archive.reading import shown
from envstack.archive.tree import Tree
from envstack.overlay import xattrs
from envstack.overlay.marks import Marks

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from envstack.archive.member import Member
    from envstack.archive.reading import Reading

_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TYPES = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}
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
    Directories that no member has brought are root's, with mode 0755 and the time of the member
    that needed them. Each method works for the member that the `Reading` is at, and raises Unsafe,
    TooLarge, and EnvstackError for what the kernel refuses; what was made by then stays. `marks`
    are those of the layer: attributes of a member that would be such are escaped, as the kernel
    does, so that they hide nothing.
    """

    def __init__(self, root: bytes, reading: Reading, marks: Marks = Marks.TRUSTED) -> None:
        self._reading = reading
        self._marks = marks
        self._tree = Tree(root, reading, marks)

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
                self._tree.put_times()
        except OSError as error:
            raise self._reading.failed(error) from error
        finally:
            self._tree.close()

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
            parent, last = self._tree.parent(path)
            try:
                os.mknod(last, stat.S_IFCHR, 0, dir_fd=parent)
            except FileExistsError:
                if stat.S_ISDIR(self._tree.status(last, parent).st_mode):
                    self._tree.hide(last, parent)
        except OSError as error:
            raise self._reading.failed(error) from error

    def opaque(self, name: bytes) -> None:
        """Hide what the layers below hold in a directory; one that is not there is made.

        The kernel does not ask it of the root: whoever stacks layers leaves out those below it.
        """
        path = clean(name, self._reading)
        try:
            self._tree.directory(path)
            parent, last = self._tree.parent(path)
            self._tree.hide(last, parent)
        except OSError as error:
            raise self._reading.failed(error) from error

    def _put(self, member: Member) -> None:
        self._reading.count_entry()
        path = clean(member.name, self._reading)
        self._tree.mtime_ns = member.mtime_ns
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
        parent, name = self._tree.parent(path)
        try:
            file = os.open(name, _FRESH, 0o600, dir_fd=parent)
        except FileExistsError:
            self._tree.remove(path, name, parent)
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
        parent, name = self._tree.parent(path)
        there = self._tree.mkdir(name, parent)
        if there and not stat.S_ISDIR(there):
            self._tree.remove(path, name, parent)
            there = self._tree.mkdir(name, parent)
        where = xattrs.beneath(parent, name)
        if there:
            for attribute in xattrs.names(where):
                if not self._marks.is_private(attribute):
                    os.removexattr(where, attribute, follow_symlinks=False)
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        os.chmod(name, member.mode, dir_fd=parent)
        self._put_xattrs(where, member.xattrs)
        self._tree.date(path, member.mtime_ns)

    def _put_link(self, member: Member, path: bytes) -> None:
        target = clean(member.target, self._reading)
        if target == path:
            raise self._reading.unsafe("it is a hard link to itself")
        above, _, first = target.rpartition(b"/")
        try:
            origin = self._tree.open_there(above)
        except OSError as error:
            raise self._no_target(member) from error
        try:
            parent, name = self._tree.parent(path)
            make = partial(os.link, first, src_dir_fd=origin, follow_symlinks=False)
            try:
                make(name, dst_dir_fd=parent)
            except FileExistsError:
                self._tree.remove(path, name, parent)
                make(name, dst_dir_fd=parent)
        except (FileNotFoundError, PermissionError) as error:
            raise self._no_target(member) from error
        finally:
            os.close(origin)

    def _put_named(self, member: Member, path: bytes, make: Callable[..., None]) -> None:
        """Make what is never opened: a symbolic link, a FIFO, a device."""
        parent, name = self._tree.parent(path)
        try:
            make(name, dir_fd=parent)
        except FileExistsError:
            self._tree.remove(path, name, parent)
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
