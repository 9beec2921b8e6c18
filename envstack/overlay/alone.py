"""All that lies below a directory that one layer alone shows, where an entry's type tells its mark.

Nothing is hidden there and nothing can be looked up elsewhere, so names and types, which a listing
holds, say everything: no entry is looked at but those whose type may be that of a whiteout, and
those whose type the file system does not list.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.model import FileKind
from envstack.overlay.marks import is_whiteout
from envstack.overlay.xattrs import beneath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envstack.overlay.descent import Descent

    Key = tuple[bytes, FileKind | None]
    """A name and its kind; for a directory also its name and a slash, with None: what is below."""


def below(place: Descent, tree: int, tick: Callable[[], None]) -> Iterator[tuple[bytes, FileKind]]:
    """Yield the path, relative to the roots, and the kind of all below this place, by path.

    `tick` is called for every entry and may raise. Raises OSError.
    """
    levels = [(place.path(b""), _level(place, tree))]
    while levels:
        prefix, entries = levels[-1]
        for key, kind in entries:
            tick()
            if kind is None:
                place.enter(key[:-1])
                levels.append((place.path(b""), _level(place, tree)))
                break
            yield prefix + key, kind
        else:
            levels.pop()
            if levels:
                place.leave()


def _level(place: Descent, tree: int) -> Iterator[Key]:
    """Return what is at this place in the order of the paths; nothing if it is gone."""
    try:
        return iter(sorted(_listed(place.fd(tree))))
    except FileNotFoundError:
        return iter(())


def _listed(directory: int) -> Iterator[Key]:
    with os.scandir(beneath(directory, b"")) as entries:  # by a path: names come as bytes
        for entry in entries:
            name = entry.name
            if entry.is_file(follow_symlinks=False):
                yield name, FileKind.FILE
            elif entry.is_dir(follow_symlinks=False):
                yield name, FileKind.DIR
                yield name + b"/", None
            elif entry.is_symlink():
                yield name, FileKind.SYMLINK
            elif _is_shown(entry):
                yield name, FileKind.OTHER


def _is_shown(entry: os.DirEntry[bytes]) -> bool:
    """Tell whether an entry of another type is none that vanished, and no whiteout."""
    try:
        return not is_whiteout(entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
