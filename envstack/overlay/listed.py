"""What the directories of an upper hold, entry by entry, small enough to be kept and compared.

An entry is known by what stat(2) tells; what that does not tell (the mark of an opaque directory,
bytes that may change unseen) stands beside it. Nothing is written here, and nobody is asked what
lies below the upper.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envstack.overlay.marks import is_whiteout

if TYPE_CHECKING:
    from collections.abc import Iterable

Facts = tuple[int, int, int, int, int]
"""Inode number, mode, size, and when its bytes and anything of it changed last, in nanoseconds.

An upper lies on one file system, and whatever else of an entry changes changes the last of these.
"""

WHITEOUT: Facts = (0, stat.S_IFCHR, 0, 0, 0)
"""Stands for each whiteout: overlayfs makes them links of one another, whose times change."""

_FACTS = struct.Struct("<QIQqq")
_SIZES = struct.Struct("<III")
_SEPARATOR = "/"

_TRIES = 5


@dataclass(slots=True)
class Listing:
    """One directory, by name: all entries, the files whose bytes may have changed unseen since, and
    the directories that hide what the layers below hold."""

    facts: dict[str, Facts] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)

    def pack(self) -> bytes:
        """Return it as `unpack` reads it."""
        names = [os.fsencode(_SEPARATOR.join(part)) for part in self._parts()]
        facts = (_FACTS.pack(*each) for each in self.facts.values())
        return b"".join([_SIZES.pack(*map(len, names)), *names, *facts])

    def _parts(self) -> tuple[Iterable[str], Iterable[str], Iterable[str]]:
        return self.facts, self.doubtful, self.opaque

    @property
    def directories(self) -> list[str]:
        """The names of the directories in it."""
        return [name for name, facts in self.facts.items() if is_dir(facts)]


def unpack(packed: bytes) -> Listing:
    """Undo `Listing.pack`."""
    sizes = _SIZES.unpack_from(packed)
    at, parts = _SIZES.size, []
    for size in sizes:
        text = os.fsdecode(packed[at : at + size])
        parts.append(text.split(_SEPARATOR) if text else [])
        at += size
    names, doubtful, opaque = parts
    facts = _FACTS.iter_unpack(memoryview(packed)[at:])
    return Listing(dict(zip(names, facts, strict=True)), set(doubtful), set(opaque))


def is_dir(facts: Facts) -> bool:
    """Tell whether they are a directory's."""
    return stat.S_ISDIR(facts[1])


def facts_of(status: os.stat_result) -> Facts:
    """Return what is compared of an entry."""
    if is_whiteout(status):
        return WHITEOUT
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_young(changed_ns: int, grain: int) -> bool:
    """Tell whether another change may bear the same time stamp; `grain` as `doubt.grain_of`."""
    return grain > 0 and time.time_ns() - changed_ns < grain


def listed(
    directory: int, known: Iterable[str], grain: int
) -> tuple[dict[str, Facts], Facts | None]:
    """Return what an open directory holds, and its own facts, None where it never stood still.

    It is listed again until nothing was made, renamed or deleted in it meanwhile, a few times; a
    listing may miss what was there all the time. So what is `known` to have been there, and what an
    earlier listing held, is asked for by name in the end.
    """
    seen = set(known)
    found: dict[str, Facts] = {}
    for _ in range(_TRIES):
        last, before = found, facts_of(os.fstat(directory))
        found = _scanned(directory)
        after = facts_of(os.fstat(directory))
        if before == after and (found == last or not is_young(after[4], grain)):
            return found, after
        seen |= found.keys()
    for name in seen - found.keys():
        with suppress(FileNotFoundError):
            found[name] = facts_of(os.stat(name, dir_fd=directory, follow_symlinks=False))
    return found, None


def _scanned(directory: int) -> dict[str, Facts]:
    found: dict[str, Facts] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            found[entry.name] = facts_of(status)
    return found
