"""Names of one file: which of them must be made anew for a tree to have the links of another.

An overlay copies a file of a lower layer up for one of its names alone. So where one name of such a
file is to be made, one of the others can stand for it, and the rest are to be made links to that.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.overlay.descent import Descent, visit
from envstack.overlay.merged import LayerTree
from envstack.overlay.wanted import shown_by

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

Inode = tuple[LayerTree, int]
"""A file of a layer, whatever names it has there."""


@dataclass(frozen=True, slots=True)
class Named:
    """A path at which the target shows the file `then`, which has `links` names in its layer.

    `now` is the file that is there, None for nothing, or a directory.
    """

    path: bytes
    now: Inode | None
    then: Inode
    links: int


@dataclass(frozen=True, slots=True)
class Linking:
    """How a tree gets its links: `first` leads from a file to a path that can stand for it.

    `wrong` are paths that must become another file, each with the layer that has it.
    """

    first: dict[Inode, bytes]
    wrong: dict[bytes, LayerTree]


def linking(
    names: Iterable[Named], made: Container[bytes], chain: Sequence[LayerTree], upper: LayerTree
) -> Linking:
    """Return how a tree gets the links that the target `chain` shows.

    `made` are the paths that differ from it anyway; `upper` is the layer of the tree that is
    written, so that names which are one file there stay one. Names of which nothing is known are
    looked for in their layer, where a file must be made that has some. Raises OSError.
    """
    groups: dict[Inode, list[Named]] = defaultdict(list)
    for named in names:
        groups[named.then].append(named)
    standing = _standing(groups, made)
    kept: dict[Inode, list[bytes]] = {}
    wrong: dict[bytes, LayerTree] = {}
    for then, group in groups.items():
        right = [named for named in group if named.now and standing.get(named.now) == then]
        wrong |= {named.path: then[0] for named in group if named.now and named not in right}
        paths = [named.path for named in right if named.path not in made]
        may_be_apart = group[0].links > len(group) and any(named.now != then for named in right)
        if len(paths) < len(group) or may_be_apart:
            kept[then] = paths
    others = _others({then: groups[then] for then in kept}, chain)
    first: dict[Inode, bytes] = {}
    for then, paths in kept.items():
        stands = next((named.now for named in groups[then] if named.path in paths), None)
        is_whole = stands is not None and stands[0] == upper
        candidates = sorted(paths) if is_whole else sorted([*paths, *others[then]])
        if candidates:
            first[then] = candidates[0]
        split = others[then] if is_whole else candidates[1:]
        wrong |= dict.fromkeys(split, then[0])
    return Linking(first, wrong)


def _standing(groups: Mapping[Inode, list[Named]], made: Container[bytes]) -> dict[Inode, Inode]:
    """Return which file of the target each file that is there now can stand for: one for one.

    What differs anyway comes last.
    """
    standing: dict[Inode, Inode] = {}
    has: dict[Inode, Inode] = {}
    everything = (named for group in groups.values() for named in group)
    for named in sorted(everything, key=lambda named: (named.path in made, named.path)):
        if named.now is None or named.now in standing:
            continue
        if has.setdefault(named.then, named.now) == named.now:
            standing[named.now] = named.then
    return standing


def _others(
    groups: Mapping[Inode, list[Named]], chain: Sequence[LayerTree]
) -> dict[Inode, list[bytes]]:
    """Return the names of each file that are shown too, and that nobody has looked at."""
    found: dict[Inode, list[bytes]] = {then: [] for then in groups}
    sought: dict[LayerTree, set[int]] = defaultdict(set)
    for (tree, ino), group in groups.items():
        if group[0].links > len(group):
            sought[tree].add(ino)
    known = {named.path for group in groups.values() for named in group}
    for tree, inodes in sought.items():
        for ino, path in _names(tree, inodes):
            if path not in known and shown_by(chain, path) == tree:
                found[tree, ino].append(path)
    return found


def _names(tree: LayerTree, inodes: Container[int]) -> list[tuple[int, bytes]]:
    """Return every name in a layer of the files with these numbers."""
    found: list[tuple[int, bytes]] = []

    def take() -> list[bytes]:
        directories = []
        with suppress(FileNotFoundError), os.scandir(place.fd(0)) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    directories.append(name)
                elif entry.inode() in inodes:
                    found.append((entry.inode(), place.path(name)))
        return directories

    with Descent([tree.path]) as place:
        visit(place, take)
    return found
