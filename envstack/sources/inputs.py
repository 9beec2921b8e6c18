"""What the `inputs` of a `run` layer hold, as one digest.

Reads the tree that the command will see, and nothing else of the machine: symbolic links count by
where they point to, and are not followed.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BUFFER = 1 << 20


class NoMatchError(LookupError):
    """A pattern that matches nothing; it is the only argument."""


def digest(root: bytes, patterns: Iterable[str]) -> str:
    """Return the SHA-256 of what the paths and glob patterns match below the directory `root`.

    A directory stands for all that it holds. Names, types, permissions, contents and link targets
    count; owners and times do not. Raises NoMatchError, and OSError for what cannot be read.
    """
    found = {path for pattern in patterns for path in _matches(root, pattern)}
    result = hashlib.sha256()
    for path in sorted(found):
        for fact in _facts(os.path.join(root, path)):
            result.update(b"%d:%b" % (len(fact), fact))
        result.update(b"%d:%b" % (len(path), path))
    return result.hexdigest()


def _matches(root: bytes, pattern: str) -> Iterator[bytes]:
    """Yield the paths, relative to `root`, that a pattern stands for."""
    exact = os.path.normpath(pattern.encode())
    # The path itself first: a name may hold the characters of a pattern.
    found = {exact} if _is_there(root, exact) else set(_glob(root, b"", exact.split(b"/")))
    if not found:
        raise NoMatchError(pattern)
    for path in found:
        yield path
        yield from _below(root, path)


def _is_there(root: bytes, path: bytes) -> bool:
    """Tell whether the path is there, no symbolic link on the way to it."""
    above = os.path.dirname(path)
    while above:
        if os.path.islink(os.path.join(root, above)):
            return False
        above = os.path.dirname(above)
    return os.path.lexists(os.path.join(root, path))


def _glob(root: bytes, at: bytes, parts: list[bytes]) -> Iterator[bytes]:
    """Yield what matches below the directory `at`; `**` is any number of directories.

    Unlike glob.glob, which walks through symbolic links to directories.
    """
    first, *rest = parts
    if first == b"**":
        yield from _glob(root, at, rest or [b"*"])
    for entry in _entries(os.path.join(root, at)):
        path = os.path.join(at, entry.name)
        if first == b"**":
            if entry.is_dir(follow_symlinks=False):
                yield from _glob(root, path, parts)
        elif fnmatch.fnmatchcase(entry.name, first):
            if not rest:
                yield path
            elif entry.is_dir(follow_symlinks=False):
                yield from _glob(root, path, rest)


def _below(root: bytes, path: bytes) -> Iterator[bytes]:
    """Yield all that lies below `path`, nothing where that is no directory."""
    if not stat.S_ISDIR(os.lstat(os.path.join(root, path)).st_mode):
        return
    pending = [path]
    while pending:
        at = pending.pop()
        for entry in _entries(os.path.join(root, at)):
            child = os.path.normpath(os.path.join(at, entry.name))
            yield child
            if entry.is_dir(follow_symlinks=False):
                pending.append(child)


def _entries(directory: bytes) -> list[os.DirEntry[bytes]]:
    with os.scandir(directory) as entries:
        return list(entries)


def _facts(path: bytes) -> Iterator[bytes]:
    status = os.lstat(path)
    yield b"%o" % status.st_mode
    if stat.S_ISLNK(status.st_mode):
        yield os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        content = hashlib.sha256()
        with open(path, "rb") as file:
            while piece := file.read(_BUFFER):
                content.update(piece)
        yield content.digest()
