"""The difference between two chains down to times of change and hard links, as a list of deeds.

It reads layers and changes nothing: `restore` acts it out. What `diff` calls no change may be one
here, for a tree that is made equal to another is to have its times and its links as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from envstack.overlay.diff import differences
from envstack.overlay.sameness import Sameness, go_on

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    from envstack.model import Change
    from envstack.overlay.descent import Descent
    from envstack.overlay.merged import Entry, LayerTree

Inode = tuple["LayerTree", int]
"""A file of a layer, whatever names it has there."""


class How(Enum):
    """What is known of a path that is to become as a layer has it."""

    LOOK = "look"
    """Its bytes may be right already: then its metadata are changed and the file stays."""
    DRESS = "dress"
    """A time alone is wrong."""
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
    others that differ, a directory before what is in it. `first` leads from a file of a layer to a
    path that is right already: what else is to be that file becomes a further name of that path.
    `changes` are what a user would call changed: times alone and links are none.
    """

    gone: tuple[bytes, ...]
    made: tuple[Make, ...]
    first: dict[Inode, bytes]
    changes: tuple[Change, ...]

    @property
    def paths(self) -> list[bytes]:
        """All that is to be touched."""
        return [*self.gone, *(make.path for make in self.made)]


def plan(a: Sequence[LayerTree], b: Sequence[LayerTree], tick: Callable[[], None] = go_on) -> Plan:
    """Return what makes what chain `a` shows equal to what chain `b` shows, both topmost first.

    Names that one layer shows on both sides, so that nobody looks at them, keep the links that they
    have among themselves alone. Raises as `overlay.diff.differences` does.
    """
    notes = _Notes()
    gone: list[bytes] = []
    made: dict[bytes, Make] = {}
    changes: list[Change] = []
    for found in differences(a, b, tick=tick, judge=partial(_Exactness, notes)):
        path = found.change.path
        is_untimely = path in notes.untimely
        if not is_untimely:
            changes.append(found.change)
        if found.new is None:
            gone.append(path)
        else:
            made[path] = Make(path, found.new, How.DRESS if is_untimely else How.LOOK)
    first = _regroup(notes.pairs, made)
    in_order = sorted(made, key=lambda path: path.split(b"/"))
    return Plan(
        tuple(reversed(gone)), tuple(made[path] for path in in_order), first, tuple(changes)
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """A path that shows no directory on both sides, and one of the two files has other names."""

    path: bytes
    old: Inode
    new: Inode


@dataclass(slots=True)
class _Notes:
    """What was noticed beside what differs: where a time alone does, and names of linked files."""

    untimely: set[bytes] = field(default_factory=set)
    pairs: list[_Pair] = field(default_factory=list)


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
        if not old.is_dir and not new.is_dir and _is_linked(old.status, new.status):
            self._notes.pairs.append(_Pair(path, self._inode(old), self._inode(new)))
        if not super().same(name, old, new):
            return False
        if old.status.st_mtime_ns == new.status.st_mtime_ns:
            return True
        self._notes.untimely.add(path)
        return False

    def _inode(self, entry: Entry) -> Inode:
        return self._trees[entry.tree], entry.status.st_ino


def _is_linked(*statuses: os.stat_result) -> bool:
    return any(status.st_nlink > 1 for status in statuses)


def _regroup(pairs: Iterable[_Pair], made: dict[bytes, Make]) -> dict[Inode, bytes]:
    """Return which path stands for each file of the target; have the wrong names replaced.

    A file that is there now can stand for one file of the target, and that for one now: who comes
    first has it, and what is not changed comes before what is.
    """
    now: dict[Inode, Inode] = {}
    then: dict[Inode, Inode] = {}
    first: dict[Inode, bytes] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.path in made, pair.path)):
        is_right = (
            now.setdefault(pair.old, pair.new) == pair.new
            and then.setdefault(pair.new, pair.old) == pair.old
        )
        if not is_right:
            made[pair.path] = Make(pair.path, pair.new[0], How.REPLACE)
        elif pair.path not in made:
            first.setdefault(pair.new, pair.path)
    return first
