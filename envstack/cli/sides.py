"""The two sides of a change as files: what `diff` reads for itself.

The daemon says which tree of the store shows a path; the bytes are read here, so that nothing large
goes over the socket, the daemon serves others meanwhile, and Ctrl-C is met at once. No symlink that
was put in the way is followed. What vanished by the time it is looked at is not there.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envstack.errors import StateError
from envstack.overlay.content import same_bytes
from envstack.overlay.descent import Descent
from envstack.rpc.shapes import path_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

MOST_TEXT = 1 << 20
"""Bytes: what is larger counts as binary, and is not read."""

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class File:
    """One side of a change. `data` is the content, a symlink's target, or None if not read."""

    mode: int
    size: int
    data: bytes | None

    @property
    def text(self) -> bytes | None:
        """The content, if it is text and not too long to be shown."""
        return None if self.data is None or b"\0" in self.data else self.data

    @property
    def is_content(self) -> bool:
        """Whether it is a regular file or a symlink."""
        return stat.S_ISREG(self.mode) or stat.S_ISLNK(self.mode)

    @property
    def kind(self) -> int:
        """The type, as in a mode."""
        return stat.S_IFMT(self.mode)


@dataclass(frozen=True, slots=True)
class Pair:
    """A path with its two sides, None where it is not there; `same`: their bytes are equal."""

    path: bytes
    old: File | None
    new: File | None
    same: bool


class Sides:
    """Reads what the rows of `env.compare` name; a context manager, quickest in their order."""

    def __init__(self, trees: Sequence[str]) -> None:
        self._trees = [os.fsencode(tree) for tree in trees]
        self._place = Descent(self._trees)

    def __enter__(self) -> Self:
        self._place.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._place.__exit__(kind, error, traceback)

    def pair(self, row: dict[str, Any]) -> Pair:
        """Return both sides of a row. Raises StateError if a tree is no longer there, OSError."""
        path = path_bytes(row)
        name = self._place.go_to(path)
        with ExitStack() as files:
            old, old_file = self._read(row["old"], name, files)
            new, new_file = self._read(row["new"], name, files)
            return Pair(path, old, new, _same(old, old_file, new, new_file))

    def _read(
        self, tree: int | None, name: bytes, files: ExitStack
    ) -> tuple[File | None, int | None]:
        if tree is None:
            return None, None
        try:
            return self._file(self._place.fd(tree), name, files)
        except FileNotFoundError:
            if os.path.isdir(self._trees[tree]):
                return None, None
        raise StateError(
            "what was to be compared was deleted meanwhile", "envstack diff tells how it stands now"
        )

    def _file(self, directory: int, name: bytes, files: ExitStack) -> tuple[File, int | None]:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            target = os.readlink(name, dir_fd=directory)
            return File(mode, len(target), target), None
        if not stat.S_ISREG(mode):
            return File(mode, 0, None), None
        file = self._open(directory, name, files)
        data = _content(file) if status.st_size <= MOST_TEXT else None
        return File(mode, status.st_size, data), file

    def _open(self, directory: int, name: bytes, files: ExitStack) -> int:
        try:
            file = os.open(name, _FILE, dir_fd=directory)
        except OSError as fault:
            if fault.errno in (errno.ELOOP, errno.ENXIO):  # it became a symlink, a socket
                raise FileNotFoundError(errno.ENOENT, "no longer a regular file", name) from fault
            raise
        files.callback(os.close, file)
        return file


def _content(file: int) -> bytes | None:
    """Return the bytes of a file, or None if there are more than a text may have."""
    parts: list[bytes] = []
    left = MOST_TEXT + 1
    while left and (part := os.read(file, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts) if left else None


def _same(old: File | None, old_file: int | None, new: File | None, new_file: int | None) -> bool:
    if old is None or new is None or old.kind != new.kind or old.size != new.size:
        return False
    if old.data is not None or old_file is None or new_file is None:
        return old.data == new.data
    return same_bytes(old_file, new_file, new.size, lambda: None)
