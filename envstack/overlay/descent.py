"""One path followed down in several directory trees at once, by open directories alone.

No path string is handed to the kernel, so trees may be deeper than PATH_MAX, and no symlink put in
the way is followed. The number of descriptors is bounded: of each tree, those nearest the root are
closed first, and are walked to anew when the descent comes back up to them; such a walk leaves the
levels just above open, so that it is rarely needed.
"""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

from envstack.linux.syscalls import mount_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MOST = 4096
"""Directories held open in all, however many more there might be."""


def visit(place: Descent, take: Callable[[], list[bytes]]) -> None:
    """Call `take` here and in every directory below that it names, the last of them first.

    It keeps a stack of its own: trees may be deep.
    """
    pending = [take()]
    while pending:
        if pending[-1]:
            place.enter(pending[-1].pop())
            pending.append(take())
            continue
        pending.pop()
        if pending:
            place.leave()


def _share(trees: int) -> int:
    """Return how many directories of each tree to hold open: enough to be quick, and leave room."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = _MOST if soft == resource.RLIM_INFINITY else min(_MOST, soft // 4)
    return max(1, room // max(1, trees))


class OtherMountError(FileNotFoundError):
    """The directory is covered by a mount, which is no part of the tree: nothing of it is there."""


class Descent:
    """A place in several trees, known by their numbers in `roots`: the same path in each.

    A directory that is not there, or no directory, raises FileNotFoundError where it is asked for,
    a mount point its subclass OtherMountError.
    """

    def __init__(self, roots: Sequence[bytes]) -> None:
        self._roots = tuple(roots)
        self._names: list[bytes] = []
        # Of each tree, depth to descriptor: neighbouring depths, the least first.
        self._open: tuple[dict[int, int], ...] = tuple({} for _ in roots)
        self._mounts: dict[int, int] = {}
        self._share = _share(len(roots))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for opened in self._open:
            while opened:
                os.close(opened.popitem()[1])

    def enter(self, name: bytes) -> None:
        """Go down to `name`; nothing is opened until it is asked for."""
        self._names.append(name)

    def leave(self) -> bytes:
        """Go up again; returns the name that was left."""
        depth = len(self._names)
        for opened in self._open:
            if depth in opened:
                os.close(opened.pop(depth))
        return self._names.pop()

    def go(self, path: bytes) -> None:
        """Go to a directory by its path, relative to the roots; b"" is their own place."""
        names = path.split(b"/") if path else []
        common = 0
        for one, other in zip(names, self._names, strict=False):
            if one != other:
                break
            common += 1
        while len(self._names) > common:
            self.leave()
        for name in names[common:]:
            self.enter(name)

    def go_to(self, path: bytes) -> bytes:
        """Go to the directory that an entry is in, and return the name of the entry in it."""
        directory, _, name = path.rpartition(b"/")
        self.go(directory)
        return name

    def fd(self, tree: int) -> int:
        """Return the directory of `tree` at this place, to be used before the next call of `fd`."""
        fd = self._open[tree].get(len(self._names))
        return self._walk(tree) if fd is None else fd

    def path(self, name: bytes) -> bytes:
        """Return the path of an entry at this place, relative to the roots."""
        return b"/".join([*self._names, name])

    def root(self, tree: int) -> bytes:
        """Return the root of `tree`."""
        return self._roots[tree]

    def full_path(self, tree: int, name: bytes) -> bytes:
        """Return the path of an entry of `tree`, for messages."""
        return self._roots[tree] + b"/" + self.path(name)

    def _walk(self, tree: int) -> int:
        """Open what lies between the deepest directory that is open and this place."""
        level = next(reversed(self._open[tree]), None)
        if level is None:
            level, fd = 0, self._open_root(tree)
        else:
            fd = self._open[tree][level]
        for above in range(level, len(self._names)):
            fd = self._open_child(tree, above, fd)
        return fd

    def _open_root(self, tree: int) -> int:
        fd = os.open(self._roots[tree], _DIRECTORY)
        self._keep(tree, 0, fd)
        self._mounts[tree] = mount_id(b"", dir_fd=fd)
        return fd

    def _open_child(self, tree: int, above: int, parent: int) -> int:
        name = self._names[above]
        try:
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except OSError as fault:
            if fault.errno in (errno.ENOTDIR, errno.ELOOP):
                raise FileNotFoundError(errno.ENOENT, "No such directory", name) from fault
            raise
        self._keep(tree, above + 1, fd)
        if mount_id(b"", dir_fd=fd) != self._mounts[tree]:
            os.close(self._open[tree].pop(above + 1))
            raise OtherMountError(errno.EXDEV, os.strerror(errno.EXDEV), name)
        return fd

    def _keep(self, tree: int, depth: int, fd: int) -> None:
        opened = self._open[tree]
        while len(opened) >= self._share:
            os.close(opened.pop(next(iter(opened))))
        opened[depth] = fd
