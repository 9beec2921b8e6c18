"""The difference between two chains down to times of change and hard links, as a list of deeds.

It reads layers and changes nothing: `restore` acts it out. What `diff` calls no change may be one
here, for a tree that is made equal to another is to have its times and its links as well.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from envstack.overlay.care import status_at
from envstack.overlay.descent import Descent
from envstack.overlay.diff import differences
from envstack.overlay.linked import Inode, Named, linking
from envstack.overlay.sameness import Sameness, go_on
from envstack.overlay.wanted import shown_by

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from envstack.model import Change
    from envstack.overlay.merged import Entry, LayerTree


_ROOT = b"."
EVERYWHERE = (_ROOT,)
"""The paths where anything may differ."""


class How(Enum):
    """What is known of a path that is to become as a layer has it."""

    LOOK = "look"
    """Its bytes may be right already: then its metadata are changed and the file stays."""
    DRESS = "dress"
    """A time alone was wrong; so it is still if nothing has changed since."""
    REPLACE = "replace"
    """It is to be another file, even if it looks the same: its links are wrong."""


@dataclass(frozen=True, slots=True)
class Make:
    """A path that is to be what `tree` has there."""

    path: bytes
    tree: LayerTree
    how: How = How.LOOK


@dataclass(frozen=True, slots=True)
class Plan:
    """What makes one tree the other, in the order in which it can be done.

    `gone` are the paths that are not to be there, those in a directory before it; `made` the
    others that differ, a directory before what is in it. `on_the_way` are directories of which
    nothing but the time may be wrong. `first` leads from a file of a layer to a
    path that is right already: what else is to be that file becomes a further name of that path.
    `changes` are what a user would call changed: times alone and links are none.
    """

    gone: tuple[bytes, ...]
    made: tuple[Make, ...]
    on_the_way: tuple[Make, ...]
    first: dict[Inode, bytes]
    changes: tuple[Change, ...]

    @property
    def paths(self) -> list[bytes]:
        """All that is to be touched."""
        return [*self.gone, *(make.path for make in self.made)]


def plan(
    a: Sequence[LayerTree],
    b: Sequence[LayerTree],
    paths: Sequence[bytes] = EVERYWHERE,
    tick: Callable[[], None] = go_on,
) -> Plan:
    """Return what makes what chain `a` shows equal to what chain `b` shows, both topmost first.

    It is known that they differ at no other paths than `paths`, and below these. The first of `a`
    is the layer that is written. Raises as `overlay.diff.differences` does.
    """
    if not paths:
        return Plan((), (), (), {}, ())
    notes = _Notes()
    gone: list[bytes] = []
    made: dict[bytes, Make] = {}
    changes: list[Change] = []
    for found in differences(a, b, paths, tick, partial(_Exactness, notes)):
        path = found.change.path
        is_untimely = path in notes.untimely
        if not is_untimely:
            changes.append(found.change)
        if found.new is None:
            gone.append(path)
        else:
            made[path] = Make(path, found.new, How.DRESS if is_untimely else How.LOOK)
    names = [*notes.names, *_added(made.values(), {named.path for named in notes.names})]
    links = linking(names, made, b, a[0])
    made |= {path: Make(path, tree, How.REPLACE) for path, tree in links.wrong.items()}
    in_order = sorted(made, key=lambda path: path.split(b"/"))
    return Plan(
        tuple(reversed(gone)),
        tuple(made[path] for path in in_order),
        tuple(_on_the_way(b, paths)),
        links.first,
        tuple(changes),
    )


def _on_the_way(chain: Sequence[LayerTree], paths: Iterable[bytes]) -> Iterator[Make]:
    """Yield the directories that lead to `paths` and are shown by a chain, its root among them."""
    above: set[bytes] = set()
    for path in paths:
        while path not in (b"", _ROOT) and (path := os.path.dirname(path)) not in above:
            above.add(path)
    for path in above:
        tree = shown_by(chain, path) if path else chain[0]
        if tree is not None:
            yield Make(path or _ROOT, tree)


def _added(makes: Iterable[Make], known: Container[bytes]) -> Iterator[Named]:
    """Yield what has other names in its layer, of what is to be made and not `known` as such."""
    for tree, group in groupby(makes, lambda make: make.tree):
        with Descent([tree.path]) as place:
            for make in group:
                status = None if make.path in known else status_at(place, make.path)
                if status and status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                    then = tree, status.st_ino
                    yield Named(make.path, None, then, status.st_nlink)


@dataclass(slots=True)
class _Notes:
    """What was noticed beside what differs: where a time alone does, and names of linked files."""

    untimely: set[bytes] = field(default_factory=set)
    names: list[Named] = field(default_factory=list)


class _Exactness(Sameness):
    """Has times of change count as well, and takes notes."""

    def __init__(
        self,
        notes: _Notes,
        place: Descent,
        trees: tuple[LayerTree, ...],
        tick: Callable[[], None],
    ) -> None:
        super().__init__(place, trees, tick)
        self._notes = notes

    def same(self, name: bytes, old: Entry, new: Entry) -> bool:
        path = self._place.path(name)
        self._note_links(path, old, new)
        if not super().same(name, old, new):
            return False
        if old.status.st_mtime_ns == new.status.st_mtime_ns:
            return True
        self._notes.untimely.add(path)
        return False

    def _note_links(self, path: bytes, old: Entry, new: Entry) -> None:
        links = new.status.st_nlink
        if old.is_dir or new.is_dir or max(old.status.st_nlink, links) == 1:
            return
        now, then = self._inode(old), self._inode(new)
        self._notes.names.append(Named(path, now, then, links))

    def _inode(self, entry: Entry) -> Inode:
        return self._trees[entry.tree], entry.status.st_ino
