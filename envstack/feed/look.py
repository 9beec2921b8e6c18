"""One look at an upper: what a reader of the merged tree sees changed since it was told last.

The index says what the upper held then, the disk what it holds now, and the layers below what shows
where the upper has nothing. A name is judged by what it showed and what it shows; where a directory
came, went, or hides something else than it did, all below it is judged likewise. What is found is
an addition to the index and to the journal; nothing is written here.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from envstack.feed.facts import Facts, directory_mark, has_status, status_of, unpack
from envstack.feed.wish import everywhere
from envstack.model import Change, ChangeType, FileKind
from envstack.overlay.descent import Descent
from envstack.overlay.diff import require
from envstack.overlay.merged import Entry, Name, listing
from envstack.overlay.sameness import Sameness, kind_of
from envstack.store.index import join
from envstack.store.journal import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.feed.doubt import Doubt
    from envstack.feed.wish import Wish
    from envstack.overlay.merged import LayerTree
    from envstack.store.index import Index

Layers = tuple[int, ...]
"""Which layers below contribute to a directory, topmost first, by their number; the upper is 0."""

_UPPER = 0
_ROOT = b"."
_ROOTS_PLACE = (b"/", _ROOT)
"""Where the index has the root itself: no directory of the tree is called so."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What an environment stands on: its upper, and the layers below it, topmost first."""

    upper: LayerTree
    lowers: tuple[LayerTree, ...]


@dataclass(slots=True)
class Found:
    """What a look has found so far: changes in order, rows of the index, directories to watch.

    A directory is a path and an inode number. `linked` are the inode numbers of changed files that
    have other names, which changed with them.
    """

    changes: list[Change] = field(default_factory=list)
    rows: dict[tuple[bytes, bytes], Row | None] = field(default_factory=dict)
    directories: list[tuple[bytes, int]] = field(default_factory=list)
    linked: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.changes) + len(self.rows)

    def places(self, since: int) -> list[bytes]:
        """Return in order the directories of what changed after `since`, in nanoseconds."""
        return sorted(
            {
                directory
                for (directory, _), row in self.rows.items()
                if row is not None and unpack(row.facts).ctime > since
            }
            - {_ROOTS_PLACE[0]}
        )


@dataclass(frozen=True, slots=True)
class _View:
    """What the merged tree shows under a name: an entry of the upper, or of a layer below it."""

    mode: int
    facts: Facts | None
    entry: Entry | None
    layers: Layers = ()

    @property
    def is_dir(self) -> bool:
        return kind_of(self.mode) is FileKind.DIR


@dataclass(frozen=True, slots=True)
class _Side:
    """A directory as it was, or is: the upper has it or not, and what contributes below it."""

    in_upper: bool = False
    layers: Layers = ()


@dataclass(slots=True)
class _Frame:
    """A directory that is being looked at: `last` is told when all in it was.

    So is `held` written to the index then: what is told in pieces may be interrupted between two,
    and until all is told the index says that the directory was what it was.
    """

    path: bytes
    was: _Side
    now: _Side
    wish: Wish
    rows: dict[bytes, Row] = field(default_factory=dict)
    there: dict[bytes, os.stat_result] = field(default_factory=dict)
    names: Iterator[bytes] = field(default_factory=lambda: iter(()))
    last: Change | None = None
    held: dict[tuple[bytes, bytes], Row | None] = field(default_factory=dict)

    @property
    def hides_or_shows(self) -> bool:
        """Whether other layers contribute to it than did; of their names the index knows none."""
        return self.was.layers != self.now.layers

    @property
    def is_open_ended(self) -> bool:
        """Whether all below it is found again though the index says already what it is now."""
        return self.now.in_upper and not self.hides_or_shows


class Look:
    """Compares `index` with `ground`; what it finds is in `found`, which the caller may replace."""

    def __init__(self, ground: Ground, index: Index, doubt: Doubt) -> None:
        self._trees = (ground.upper, *ground.lowers)
        self._index = index
        self._doubt = doubt
        self.found = Found()
        self._changing = 0

    @property
    def is_whole(self) -> bool:
        """Whether what was found so far can be told by itself: the rest is found by another look.

        If not, that finds some of it again.
        """
        return self._changing == 0

    def run(self, wish: Wish) -> Iterator[None]:
        """Look where it is wished; yields after every entry, so that the caller can take stock.

        It keeps a stack of its own: trees are deeper than Python's recursion goes. Raises OSError,
        errors.Damaged and errors.Unsupported as `overlay.diff.differences` does.
        """
        with Descent([tree.path for tree in self._trees]) as place:
            self._place = place
            self._sameness = Sameness(place, self._trees)
            frames = [self._root(wish)]
            while frames:
                frame = frames[-1]
                name = next(frame.names, None)
                if name is None:
                    self._close(frames.pop())
                    if frames:
                        place.leave()
                else:
                    below = self._entry(frame, name)
                    if below is not None:
                        place.enter(name)
                        frames.append(self._opened(below))
                yield

    def _root(self, wish: Wish) -> _Frame:
        """Begin at the root, of which the kernel does not ask whether it is opaque.

        One of which nothing is known is looked at as a whole.
        """
        require(self._place, self._trees)
        status = os.stat(self._place.fd(_UPPER))
        known = self._index.row(*_ROOTS_PLACE)
        if known is None or not has_status(known.facts, status_of(status)):
            mark = directory_mark(self._place.fd(_UPPER), b"", self._trees[_UPPER].marks)
            row = self.found.rows[_ROOTS_PLACE] = _row(status, mark)
            if known and not unpack(known.facts).looks_like(unpack(row.facts)):
                self.found.changes.append(Change(_ROOT, ChangeType.MODIFIED, FileKind.DIR))
        layers = tuple(range(1, len(self._trees)))
        is_known = known is not None
        was, now = _Side(is_known, layers), _Side(True, layers)
        return self._opened(_Frame(b"", was, now, wish if is_known else everywhere()))

    def _opened(self, frame: _Frame) -> _Frame:
        """Read what was and what is in a directory, and which names are to be judged.

        What was told of it may be more than is known of the directory itself: not all was told.
        """
        self._changing += frame.hides_or_shows
        if not frame.wish.whole:
            frame.names = iter(sorted(frame.wish))
            return frame
        frame.rows = self._index.rows(frame.path)
        if frame.now.in_upper:
            frame.there = self._listed()
            for name in frame.rows.keys() - frame.there.keys():
                # One listing under constant renaming may miss what was there all the time.
                if (status := self._status(name)) is not None:
                    frame.there[name] = status
        names = frame.rows.keys() | frame.there.keys()
        for number in set(frame.was.layers) ^ set(frame.now.layers):
            names |= set(listing(self._place, number))
        frame.names = iter(sorted(names))
        return frame

    def _close(self, frame: _Frame) -> None:
        """Take down what was to wait for all in a directory."""
        self._changing -= frame.hides_or_shows
        self.found.rows.update(frame.held)
        if frame.last is not None:
            self.found.changes.append(frame.last)

    def _listed(self) -> dict[bytes, os.stat_result]:
        """Return what the upper has here; nothing where it is gone."""
        found = {}
        with suppress(FileNotFoundError), os.scandir(self._place.fd(_UPPER)) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found[os.fsencode(entry.name)] = entry.stat(follow_symlinks=False)
        return found

    def _status(self, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._place.fd(_UPPER), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _entry(self, frame: _Frame, name: bytes) -> _Frame | None:
        """Judge one name; return the directory below it, if that is to be looked at."""
        if frame.wish.whole:
            row, status = frame.rows.get(name), frame.there.get(name)
        else:
            row = self._index.row(frame.path, name) if frame.was.in_upper else None
            status = self._status(name) if frame.now.in_upper else None
        if row is not None and status is not None and has_status(row.facts, status_of(status)):
            if not stat.S_ISDIR(status.st_mode):
                self._recheck(frame.path, name, row, status.st_mode)
                return None
            now: Row | None = row
        else:
            now = None if status is None else self._recorded(name, status)
        was_facts = None if row is None else unpack(row.facts)
        now_facts = None if now is None else unpack(now.facts)
        names = Name(self._place, self._trees, name)
        before = _view(was_facts, frame.was.layers, names)
        after = _view(now_facts, frame.now.layers, names)
        change = self._change(join(frame.path, name), names, before, after)
        self._note(join(frame.path, name), was_facts, now_facts, is_changed=change is not None)
        below = _below(join(frame.path, name), before, after, frame.wish.below(name))
        if now != row:
            waits = below is not None and not below.is_open_ended
            rows = below.held if below is not None and waits else self.found.rows
            rows[frame.path, name] = now
        if change is not None and below is not None and not (after and after.is_dir):
            below.last = change
        elif change is not None:
            self.found.changes.append(change)
        return below

    def _recheck(self, directory: bytes, name: bytes, row: Row, mode: int) -> None:
        """Compare the bytes of a file whose status need not tell that they were changed."""
        if not stat.S_ISREG(mode) or not self._doubt.asks(row):
            return
        with suppress(FileNotFoundError):
            is_changed, digest = self._doubt.again(self._place.fd(_UPPER), name, row)
            if digest != row.digest:
                self.found.rows[directory, name] = replace(row, digest=digest)
            if is_changed:
                change = Change(join(directory, name), ChangeType.MODIFIED, kind_of(mode))
                self.found.changes.append(change)

    def _recorded(self, name: bytes, status: os.stat_result) -> Row | None:
        """Return what the index is to hold of an entry from now on; None if it is gone by now."""
        mark, digest = b"", None
        try:
            if stat.S_ISDIR(status.st_mode):
                mark = directory_mark(self._place.fd(_UPPER), name, self._trees[_UPPER].marks)
            elif stat.S_ISREG(status.st_mode):
                status, digest = self._doubt.first(self._place.fd(_UPPER), name)
        except FileNotFoundError:
            return None
        return _row(status, mark, digest)

    def _change(
        self, path: bytes, names: Name, before: _View | None, after: _View | None
    ) -> Change | None:
        if before is None:
            return None if after is None else Change(path, ChangeType.ADDED, kind_of(after.mode))
        if after is None:
            return Change(path, ChangeType.DELETED, kind_of(before.mode))
        if self._looks_alike(names, before, after):
            return None
        return Change(path, ChangeType.MODIFIED, kind_of(after.mode))

    def _looks_alike(self, names: Name, before: _View, after: _View) -> bool:
        if before.facts and after.facts:
            return before.facts.looks_like(after.facts)
        if before.entry is None or after.facts is None:
            return before.entry == after.entry  # what the upper hid is shown again: who knows
        return not after.facts.opaque and self._is_faithful(names, before.entry)

    def _is_faithful(self, names: Name, original: Entry) -> bool:
        """Tell whether what was copied up is what it was, its time included unless a directory."""
        copy = names[_UPPER]
        if copy is None:
            return False
        if not copy.is_dir and copy.status.st_mtime_ns != original.status.st_mtime_ns:
            return False
        try:
            return self._sameness.same(names.name, original, copy)
        except FileNotFoundError:
            return False

    def _note(
        self, path: bytes, before: Facts | None, after: Facts | None, *, is_changed: bool
    ) -> None:
        """Note a directory that is to be watched, and a file that changed under other names too."""
        if after and after.is_dir and not (before and before.is_dir and before.ino == after.ino):
            self.found.directories.append((path, after.ino))
        if is_changed:
            several = (each for each in (before, after) if each and each.is_file and each.links > 1)
            self.found.linked.update(signed(each.ino) for each in several)


def _view(facts: Facts | None, layers: Layers, names: Name) -> _View | None:
    """Return what shows where the upper has `facts`, or nothing, on these layers."""
    if facts is not None and facts.is_whiteout:
        return None
    if facts is not None and (facts.opaque or not facts.is_dir):
        return _View(facts.mode, facts, None)
    shown = names.shown(layers)
    below = shown.layers if shown else ()
    if facts is not None:
        return _View(facts.mode, facts, None, below)
    return _View(shown.entry.status.st_mode, None, shown.entry, below) if shown else None


def _below(path: bytes, before: _View | None, after: _View | None, wish: Wish) -> _Frame | None:
    """Return the directory at `path` as it was and is, unless nothing below it can differ."""
    was, now = _side(before), _side(after)
    facts = [view and view.facts for view in (before, after)]
    is_the_same = was == now and (facts[0] and facts[0].ino) == (facts[1] and facts[1].ino)
    if not is_the_same:
        is_shown = any((was.in_upper, was.layers, now.in_upper, now.layers))
        return _Frame(path, was, now, everywhere()) if is_shown else None
    is_wished = now.in_upper and (wish.whole or bool(wish))
    return _Frame(path, was, now, wish) if is_wished else None


def _side(view: _View | None) -> _Side:
    if view is None or not view.is_dir:
        return _Side()
    return _Side(view.facts is not None, view.layers)


def _row(status: os.stat_result, mark: bytes, digest: bytes | None = None) -> Row:
    return Row(status_of(status) + mark, signed(status.st_ino), digest)


def signed(ino: int) -> int:
    """Return an inode number as a column of the index holds it."""
    return ino - (1 << 64) if ino >= 1 << 63 else ino
