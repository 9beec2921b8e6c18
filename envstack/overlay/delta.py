"""What an upper holds that it did not hold before, told to who makes a layer of it.

That layer is to lie on a chain that shows what the merged tree was when `before` was written down.
What is as it was is not told; what vanished gets a whiteout; a directory that was replaced hides
what lies below and is told with all it holds, of any other what changed in it alone. The upper is
read while others write to it, so what was found is looked at again until it stands still.

The kernel is trusted in this: a name that an upper does not have shows what the layers below have
under it, and of those nothing shows again once the upper had something there (ovl_do_remove and
ovl_rename in fs/overlayfs/dir.c leave a whiteout where a lower layer has the name, ovl_mkdir makes
a directory opaque that takes the place of one).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from envstack.overlay import xattrs
from envstack.overlay.descent import Descent
from envstack.overlay.entry import open_to_read
from envstack.overlay.listed import (
    WHITEOUT,
    Facts,
    Listing,
    facts_of,
    is_dir,
    listed,
)
from envstack.overlay.marks import Marks, is_opaque

if TYPE_CHECKING:
    from envstack.overlay.kept import Watch
    from envstack.overlay.making import Copied

Before = Callable[[bytes], Listing]
"""Returns what a directory of the upper held, by its path: nothing where there was none."""

_TIMES = 3
"""How often directories are looked at again because something was made or deleted in them."""


class Target(Protocol):
    """Where changes go; paths are relative to the upper. So does `making.Making`."""

    def copy(self, path: bytes) -> Copied | None:
        """Take what is no directory; None where it is gone by now."""

    def directory(self, path: bytes, *, opaque: bool) -> bool:
        """Take a directory, what is in it aside; False where it is gone by now."""

    def hide(self, path: bytes) -> None:
        """Take note that nothing is there any more."""

    def clear(self, path: bytes) -> None:
        """Forget what was taken at a path and below it."""


@dataclass(slots=True)
class Found:
    """What is to be written down when the layer is sealed.

    `sheets` are the directories that are another than they were, by path; `gone` those of which
    nothing holds any more, nor of what was below them. `unstable` are the paths that changed while
    they were read.
    """

    sheets: dict[bytes, Listing] = field(default_factory=dict)
    gone: list[bytes] = field(default_factory=list)
    unstable: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Visit:
    """A directory as it was when it was listed: None where it did not stand still.

    A `fresh` one is none that `before` knows.
    """

    facts: Facts | None
    fresh: bool


@dataclass(slots=True)
class _Frame:
    """A directory, and the names of those in it that are still to be looked at."""

    path: bytes
    fresh: bool
    names: list[str]


class Delta:
    """Compares what the directory `upper` holds with `before`, and tells `target`.

    The metadata of the root itself is left to who seals.
    """

    def __init__(self, upper: bytes, before: Before, target: Target, watch: Watch) -> None:
        self.found = Found()
        self._upper = upper
        self._before = before
        self._target = target
        self._watch = watch
        self._visits: dict[bytes, _Visit] = {}
        self._fresh: set[bytes] = set()
        self._is_first = True

    def run(self) -> None:
        """Look at all of the upper, and tell what is another than was told, or was before."""
        self._visits.clear()
        with Descent([self._upper]) as self._place:
            self._walk(b"", fresh=False)
        self._is_first = False

    def settle(self) -> None:
        """Look again at the directories in which something was made or deleted meanwhile.

        So that no name is missed that was there all the time, under this name or that.
        """
        with Descent([self._upper]) as self._place:
            for _ in range(_TIMES):
                moved = list(self._moved())
                if not moved:
                    return
                for path in moved:
                    if path in self._visits:  # else it was deleted, and is found so above it
                        self._walk(path, fresh=self._visits[path].fresh)
        self.found.unstable.update(path or b"." for path in self._moved())

    def _moved(self) -> list[bytes]:
        """Return the directories that are not as they were listed, in order."""
        return [
            path for path, visit in sorted(self._visits.items()) if self._has_moved(path, visit)
        ]

    def _has_moved(self, path: bytes, visit: _Visit) -> bool:
        self._watch.tick()
        try:
            return facts_of(os.lstat(self._upper + b"/" + path)) != visit.facts
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
                raise
            return True

    def _walk(self, path: bytes, *, fresh: bool) -> None:
        """Look at a directory, and at those below it that nobody has looked at."""
        self._place.go(path)
        frames = [self._opened(path, fresh=fresh)]
        while frames:
            frame = frames[-1]
            if not frame.names:
                frames.pop()
                if frames:
                    self._place.leave()
                continue
            name = os.fsencode(frame.names.pop())
            below = _join(frame.path, name)
            if below not in self._visits:
                self._place.enter(name)
                frames.append(self._opened(below, fresh=frame.fresh or below in self._fresh))

    def _opened(self, path: bytes, *, fresh: bool) -> _Frame:
        self._watch.tick()
        known = self._latest(path, fresh=fresh)
        try:
            facts, own = listed(self._place.fd(0), known.facts, self._watch.grain)
        except FileNotFoundError:  # deleted just now, which is found where it was
            self._visits[path] = _Visit(None, fresh)
            return _Frame(path, fresh, [])
        self._visits[path] = _Visit(own, fresh)
        now = self._told(path, facts, known, fresh=fresh)
        return _Frame(path, fresh, sorted(now.directories, reverse=True))

    def _latest(self, path: bytes, *, fresh: bool) -> Listing:
        """Return what was told of a directory last."""
        if path in self.found.sheets:
            return self.found.sheets[path]
        return Listing() if fresh else self._before(path)

    def _told(
        self, path: bytes, facts: dict[str, Facts], known: Listing, *, fresh: bool
    ) -> Listing:
        """Tell what changed in a directory; return what is known of it from now on."""
        changed = {name for name, _ in facts.items() ^ known.facts.items()} | known.doubtful
        if not changed:
            return known
        base = known
        if path in self.found.sheets:
            base = Listing() if fresh else self._before(path)
        now = Listing(facts, known.doubtful - changed, known.opaque - changed)
        for name in sorted(changed):
            self._watch.tick()
            entry = _Entry(_join(path, os.fsencode(name)), name, now, known, base)
            self._entry(entry)
        self.found.sheets[path] = now
        return now

    def _entry(self, entry: _Entry) -> None:
        facts, told = entry.facts, entry.told
        if facts is None:
            self._vanished(entry)
        elif facts == told and not is_dir(facts):
            self._recheck(entry)
        elif facts == WHITEOUT:
            self._clear(entry)
            if entry.before != WHITEOUT:
                self._target.hide(entry.path)
        elif is_dir(facts):
            self._directory(entry, facts)
        else:
            self._clear(entry)
            self._copy(entry)

    def _vanished(self, entry: _Entry) -> None:
        self._clear(entry)
        entry.now.facts.pop(entry.name, None)
        if entry.before not in (None, WHITEOUT):
            self._target.hide(entry.path)

    def _copy(self, entry: _Entry) -> None:
        copied = self._target.copy(entry.path)
        if copied is None:
            self._vanished(entry)
            return
        entry.now.facts[entry.name] = copied.facts
        if copied.doubtful:
            entry.now.doubtful.add(entry.name)
        if not copied.whole:
            self.found.unstable.add(entry.path)

    def _directory(self, entry: _Entry, facts: Facts) -> None:
        """Tell of a directory: is it the one that was told, with another time or mode?"""
        try:
            where = xattrs.beneath(self._place.fd(0), os.fsencode(entry.name))
            opaque = is_opaque(where, Marks.TRUSTED)
        except FileNotFoundError:
            self._vanished(entry)
            return
        is_same = entry.is_directory(facts[0]) and opaque == (entry.name in entry.known.opaque)
        if not is_same:
            self._clear(entry)
            self._fresh.add(entry.path)
        is_replaced = not is_same and entry.before not in (None, WHITEOUT)
        hides = not is_same and (opaque or is_replaced)
        if not self._target.directory(entry.path, opaque=hides):
            self._vanished(entry)
        elif opaque:
            entry.now.opaque.add(entry.name)

    def _recheck(self, entry: _Entry) -> None:
        """Compare the bytes of a file whose facts need not tell that they were changed."""
        try:
            file = open_to_read(os.fsencode(entry.name), self._place.fd(0))
        except OSError:  # not what it was any more
            self._clear(entry)
            self._copy(entry)
            return
        try:
            assert entry.facts is not None, "it is looked at because it is there"
            is_same, is_doubtful = self._watch.look(entry.path, file, entry.facts)
        finally:
            os.close(file)
        if not is_same:
            self._clear(entry)
            self._copy(entry)
        elif is_doubtful:
            entry.now.doubtful.add(entry.name)

    def _clear(self, entry: _Entry) -> None:
        """Forget what was told of an entry, and of what was below it."""
        self.found.unstable.discard(entry.path)
        if is_dir(entry.before or WHITEOUT):
            self.found.gone.append(entry.path)
        if self._is_first:
            return
        self._target.clear(entry.path)
        if entry.told is not None and is_dir(entry.told):
            below = entry.path + b"/"
            for known in (self.found.sheets, self._visits):
                for path in [each for each in known if (each + b"/").startswith(below)]:
                    del known[path]
            self._fresh = {each for each in self._fresh if not (each + b"/").startswith(below)}
            self.found.unstable = {
                each for each in self.found.unstable if not each.startswith(below)
            }


@dataclass(frozen=True, slots=True)
class _Entry:
    """A name in a directory, which was `base` before, is `known` as told, and is told `now`."""

    path: bytes
    name: str
    now: Listing
    known: Listing
    base: Listing

    @property
    def facts(self) -> Facts | None:
        return self.now.facts.get(self.name)

    @property
    def told(self) -> Facts | None:
        return self.known.facts.get(self.name)

    @property
    def before(self) -> Facts | None:
        return self.base.facts.get(self.name)

    def is_directory(self, ino: int) -> bool:
        """Tell whether what was told is a directory of this number."""
        return self.told is not None and is_dir(self.told) and self.told[0] == ino


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
