"""What a chain of layers shows, one directory at a time, as overlayfs looks names up.

A merged directory is the list of layers that contribute to it, topmost first. A name in it is what
the first of them says that has it; if that is a directory, the layers below contribute to it too,
down to an opaque directory, a whiteout or anything else that is no directory (`ovl_lookup` in
fs/overlayfs/namei.c). Layers are read, never written.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.overlay import xattrs
from envstack.overlay.marks import (
    Marks,
    is_opaque,
    is_whiteout,
    is_whiteout_file,
    refuse_references,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envstack.overlay.descent import Descent


@dataclass(frozen=True, slots=True)
class LayerTree:
    """A layer's directory on disk, which is also what makes two layers the same one."""

    path: bytes
    marks: Marks = Marks.TRUSTED
    marked_by_type: bool = False
    """Whether all its whiteouts are devices and no entry needs another layer.

    So in what an overlay wrote with `metacopy=off,redirect_dir=nofollow`: the kernel makes no other
    whiteouts, and stores a user's own attributes of those names escaped, or refuses them.
    """


@dataclass(frozen=True, slots=True)
class Entry:
    """What one layer (by its number) has under a name. `attributes` are the stored names."""

    tree: int
    status: os.stat_result
    attributes: tuple[str, ...]
    whiteout: bool
    opaque: bool

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the merged tree has under a name: its topmost entry, and who contributes below it."""

    entry: Entry
    layers: tuple[int, ...]
    """Empty unless it is a directory."""


class Name(dict[int, "Entry | None"]):
    """A name at the descent's place, looked up in each layer when it is first asked for.

    Both sides of a comparison ask the layers that they share, which are read once.
    """

    def __init__(self, place: Descent, trees: tuple[LayerTree, ...], name: bytes) -> None:
        super().__init__()
        self.place = place
        self.name = name
        self._trees = trees

    def __missing__(self, tree: int) -> Entry | None:
        try:
            self[tree] = self._read(tree)
        except FileNotFoundError:
            self[tree] = None
        return self[tree]

    def _read(self, tree: int) -> Entry:
        dirfd, marks = self.place.fd(tree), self._trees[tree].marks
        status = os.stat(self.name, dir_fd=dirfd, follow_symlinks=False)
        if is_whiteout(status):
            return Entry(tree, status, (), whiteout=True, opaque=False)
        where = xattrs.beneath(dirfd, self.name)
        attributes = tuple(xattrs.names(where))
        if not any(map(marks.is_private, attributes)):
            return Entry(tree, status, attributes, whiteout=False, opaque=False)
        refuse_references(self.place.full_path(tree, self.name), attributes, marks)
        return Entry(
            tree,
            status,
            attributes,
            whiteout=is_whiteout_file(status, attributes, marks),
            opaque=stat.S_ISDIR(status.st_mode) and is_opaque(where, marks),
        )

    def shown(self, layers: Iterable[int]) -> Shown | None:
        """Return what a merged directory of these layers shows under the name, None for nothing.

        Raises errors.Unsupported for an entry that needs layers it came from.
        """
        top: Entry | None = None
        below: list[int] = []
        for tree in layers:
            entry = self[tree]
            if entry is None:
                continue
            if entry.whiteout:
                break
            if not entry.is_dir:
                return Shown(entry, ()) if top is None else Shown(top, tuple(below))
            top = top or entry
            below.append(tree)
            if entry.opaque:
                break
        return None if top is None else Shown(top, tuple(below))


def listing(place: Descent, tree: int) -> list[bytes]:
    """Return the names that a layer has at this place, marks included; none if it is gone."""
    try:
        return [os.fsencode(name) for name in os.listdir(place.fd(tree))]
    except FileNotFoundError:
        return []


def contributes(place: Descent, tree: int) -> bool:
    """Whether a layer has a directory of its own at this place: not vanished, no mount upon it."""
    try:
        place.fd(tree)
    except FileNotFoundError:
        return False
    return True
