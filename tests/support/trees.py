"""Directory trees as values: everything a user can see of one, and how two of them differ.

This is a judge of envstack's own tree code, so it shares none of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

ROOT = b"."
_PRIVATE = ("trusted.overlay.", "user.overlay.")
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}
_VANISHED = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO, errno.EISDIR}
"""What is answered for a name that is gone, or another kind of thing, since it was looked at."""


@dataclass(frozen=True, slots=True)
class Entry:
    """All that a reader can see of one name, but for times and inode numbers.

    `group` is the first path, in order of bytes, of the hard links of one file within the tree; it
    is None where the file has one name there.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    digest: str = ""
    target: bytes = b""
    rdev: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    group: bytes | None = None


Tree = dict[bytes, Entry]
"""Paths relative to the root, which is `b"."` itself."""


def snapshot(root: Path) -> Tree:
    """Return the whole tree beneath `root`, mount points followed, symbolic links not.

    Only names relative to an open directory are used, so depth is bounded neither by PATH_MAX nor
    by the number of descriptors, and no process working directory is moved.
    """
    tree: Tree = {}
    inodes: dict[tuple[int, int], list[bytes]] = {}
    for path, entry, inode in _walk(root):
        tree[path] = entry
        if entry.kind != "dir" and inode is not None:
            inodes.setdefault(inode, []).append(path)
    for paths in inodes.values():
        if len(paths) > 1:
            first = min(paths)
            for path in paths:
                tree[path] = replace(tree[path], group=first)
    return tree


def entries(root: Path, paths: Iterable[bytes]) -> Iterator[Entry | None]:
    """Yield what each of `paths` is at this moment, None if it is not there; `group` is None.

    Others may be writing meanwhile. It costs least where paths of one directory stand together.
    """
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    opened: tuple[bytes, int] | None = None
    try:
        for path in paths:
            above, _, name = path.rpartition(b"/")
            try:
                if opened is None or opened[0] != above:
                    if opened is not None:
                        os.close(opened[1])
                        opened = None
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                    opened = above, os.open(above or ROOT, flags, dir_fd=top)
                yield _entry(opened[1], name)[0]
            except OSError as error:
                if error.errno not in _VANISHED:
                    raise
                yield None
    finally:
        os.close(top)
        if opened is not None:
            os.close(opened[1])


def _walk(root: Path) -> Iterator[tuple[bytes, Entry, tuple[int, int] | None]]:
    """Yield every entry, a directory before what is in it, holding one descriptor at a time."""
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield ROOT, *_entry(here, ROOT)
        parents: list[bytes] = []
        pending: list[list[bytes]] = [_names(here)]
        while pending:
            if not pending[-1]:
                pending.pop()
                if pending:
                    parents.pop()
                    here = _step(here, b"..")
                continue
            name = pending[-1].pop()
            entry, inode = _entry(here, name)
            yield b"/".join([*parents, name]), entry, inode
            if entry.kind == "dir":
                here = _step(here, name)
                parents.append(name)
                pending.append(_names(here))
    finally:
        os.close(here)


def _step(here: int, name: bytes) -> int:
    there = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
    os.close(here)
    return there


def _names(descriptor: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(descriptor)]


def _entry(directory: int, name: bytes) -> tuple[Entry, tuple[int, int] | None]:
    """Return what `name` in `directory` is, and its inode if that may have other names.

    Numbers of inodes alone do not tell: in an overlay over several disks two may be the same.
    """
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    kind = _KINDS[stat.S_IFMT(info.st_mode)]
    entry = Entry(
        kind=kind,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        size=info.st_size if kind == "file" else 0,
        digest=_digest(directory, name) if kind == "file" else "",
        target=os.readlink(name, dir_fd=directory) if kind == "symlink" else b"",
        rdev=info.st_rdev if kind in {"char", "block"} else 0,
        xattrs=_xattrs(directory, name),
    )
    return entry, (info.st_dev, info.st_ino) if info.st_nlink > 1 else None


def _digest(directory: int, name: bytes) -> str:
    # It may have become a FIFO since it was looked at, and nobody waits for a writer.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    with open(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xattrs(directory: int, name: bytes) -> tuple[tuple[str, bytes], ...]:
    """Return the extended attributes, the overlay's own left out.

    xattr(7) has no call relative to a directory in Linux before 6.13, hence the way through /proc.
    """
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    return tuple(
        (key, os.getxattr(path, key, follow_symlinks=False))
        for key in sorted(os.listxattr(path, follow_symlinks=False))
        if not key.startswith(_PRIVATE)
    )


def differences(left: Tree, right: Tree) -> list[str]:
    """Return one readable line a path that is not the same in both, in order; none if equal."""
    lines = []
    for path in sorted(left.keys() | right.keys()):
        one, other = left.get(path), right.get(path)
        if one is None:
            lines.append(f"{path!r}: only on the right: {other}")
        elif other is None:
            lines.append(f"{path!r}: only on the left: {one}")
        elif one != other:
            lines.append(f"{path!r}: {_fields(one, other)}")
    return lines


def _fields(one: Entry, other: Entry) -> str:
    return ", ".join(
        f"{name} {getattr(one, name)!r} != {getattr(other, name)!r}"
        for name in Entry.__slots__
        if getattr(one, name) != getattr(other, name)
    )


def assert_same(left: Path, right: Path) -> None:
    """Fail with every difference named unless the two trees are the same in full."""
    found = differences(snapshot(left), snapshot(right))
    assert not found, f"{left} and {right} differ:\n" + "\n".join(found)


def changes(before: Tree, after: Tree) -> set[tuple[bytes, str, str]]:
    """Return `(path, change, kind)` for all that differs, as DESIGN section 4 says `diff` speaks.

    Found by looking at every path of both. Which names are links of one file is no change.
    """
    found = set()
    for path in before.keys() | after.keys():
        one, other = before.get(path), after.get(path)
        if one is None and other is not None:
            found.add((path, "added", _diff_kind(other)))
        elif one is not None and other is None:
            found.add((path, "deleted", _diff_kind(one)))
        elif one is not None and other is not None and _alone(one) != _alone(other):
            found.add((path, "modified", _diff_kind(other)))
    return found


def _alone(entry: Entry) -> Entry:
    return replace(entry, group=None)


def _diff_kind(entry: Entry) -> str:
    return entry.kind if entry.kind in {"file", "dir", "symlink"} else "other"


def duplicate(source: Path, target: Path) -> None:
    """Make `target`, which must not exist, the same as `source` in all that `snapshot` sees.

    Raises `subprocess.CalledProcessError` if cp(1) could not.
    """
    subprocess.run(["cp", "-a", "--", source, target], check=True)


def remove(path: Path) -> None:
    """Delete the tree at `path`, however deep; nothing there is no fault."""
    subprocess.run(["rm", "-rf", "--", path], check=True)
