"""What the `inputs` of a `run` layer hold, as one digest.

Reads the tree that the command will see, and nothing else of the machine: symbolic links count by
where they point to, and are not followed.
"""

from __future__ import annotations

import glob
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
    if os.path.lexists(os.path.join(root, exact)):
        names = [exact]  # a name may hold the characters of a pattern
    else:
        names = glob.glob(pattern.encode(), root_dir=root, recursive=True, include_hidden=True)
    if not names:
        raise NoMatchError(pattern)
    for name in map(os.path.normpath, names):
        yield name
        yield from _below(root, name)


def _below(root: bytes, name: bytes) -> Iterator[bytes]:
    for directory, subdirectories, files in os.walk(os.path.join(root, name), onerror=_fail):
        for child in (*subdirectories, *files):
            yield os.path.relpath(os.path.join(directory, child), root)


def _fail(error: OSError) -> None:
    if not isinstance(error, NotADirectoryError):  # what os.walk says of a file
        raise error


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
