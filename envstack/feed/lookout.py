"""Keeps an upper watched, gathers what is told, and doubts where something may have gone untold.

The doubts of this module, all that are known of watchfiles and the kernel: a notifier that is new
or broken, or that cannot be had; a queue that may have been full; a directory that stays unwatched.
Everything is done when it is asked for, in one thread.
"""

from __future__ import annotations

import logging
import os
import time
from math import inf
from typing import TYPE_CHECKING

from envstack.feed.hints import Touch
from envstack.feed.notifier import Notifier
from envstack.feed.pacing import Pauses, Share
from envstack.feed.young import Young, inode_of_directory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envstack.feed.hints import Gathering
    from envstack.feed.notifier import Collected

_log = logging.getLogger(__name__)

_MAKING = 0.1
_LOOKING = 0.05
"""The parts of the time that making notifiers and looking at the watches may have."""

_GROWN_WITHIN = 2.0
"""Seconds for a new directory to be watched; it takes milliseconds."""
_STEP = 0.1
"""Seconds for the same where nobody can tell whether it is."""

_CROWDED = 1 / 4
"""A queue that is so full may have been full some milliseconds ago, when nobody looked."""
_EVENTS_A_HINT = 8
"""No more events stand behind a hint, as a rule: creation, attributes, writes, opens, closes."""


class Lookout:
    """Watches `upper` as well as can be, and fills `gathering`; one thread makes and uses it."""

    def __init__(self, upper: bytes, gathering: Gathering) -> None:
        self._upper = upper
        self._gathering = gathering
        self._notifier: Notifier | None = None
        self._covered: frozenset[int] = frozenset()
        self._young = Young(upper)
        self._told = 0
        self._is_behind = False
        self._why_unwatched = ""
        self._making = Share(_MAKING, least=0.05)
        self._unwatched = Pauses(0.5, 10.0)
        self._looks = Share(_LOOKING, least=0.002)

    @property
    def has_bell(self) -> bool:
        """Whether SIGIO comes whenever there may be something to gather."""
        return self._notifier is not None and self._notifier.has_bell

    @property
    def is_watching(self) -> bool:
        """Whether there can be anything to gather."""
        return self._notifier is not None

    @property
    def is_behind(self) -> bool:
        """Whether more is about to be told, and nothing rings for it."""
        return self._is_behind

    @property
    def due(self) -> float:
        """When `gather` is to be called whatever happens, by time.monotonic."""
        if self._notifier is None:
            return max(self._making.due, self._unwatched.due)
        return self._looks.due if self._young else inf

    def close(self) -> None:
        """Watch no more."""
        if self._notifier is not None:
            self._notifier.close()
            self._notifier = None
        self._is_behind = False
        self._young.clear()

    def gather(self) -> bool:
        """Add what was told since the last time; tell whether it was anything."""
        now = time.monotonic()
        if self._notifier is None and now >= self.due:
            self._make()
        if self._notifier is None:
            return False
        try:
            return self._collect(self._notifier, now)
        except OSError as error:  # also for want of descriptors
            self._lose(f"the watch is broken: {_reason(error)}")
            return False

    def _collect(self, notifier: Notifier, now: float) -> bool:
        is_crowded = notifier.queue_length() > notifier.capacity * _CROWDED
        is_settled = notifier.is_settled()
        collected = notifier.collect()
        self._is_behind = not is_settled
        self._gathering.touch(collected.touched)
        self._young.add(self._directories(collected.added), now)
        self._doubt_the_queue(notifier.capacity, collected, is_crowded=is_crowded)
        if self._young and is_settled and now >= self._looks.due:
            self._look(notifier)
        return bool(collected.touched)

    def found(self, directories: Iterable[tuple[bytes, int]]) -> None:
        """Take note of directories that are new, each with its inode number.

        What the notifier went through when it was made, before anybody compared, needs no care.
        """
        covered, self._covered = self._covered, frozenset()
        new = [(path, ino) for path, ino in directories if ino not in covered]
        if self._notifier is not None:
            self._young.add(new, time.monotonic())
        elif new:
            self._unwatched.reset()

    def _make(self) -> None:
        try:
            with self._making.spend():
                self._notifier = Notifier(self._upper)
        except OSError as error:
            self._unwatched.grow()
            self._bemoan(_reason(error))
        else:
            self._unwatched.reset()
            self._why_unwatched = ""
            self._covered = self._notifier.covered
            self._told = 0
            self._gathering.doubt("it was not watched before")

    def _bemoan(self, why: str) -> None:
        if why != self._why_unwatched:
            _log.warning("%s is not watched, but compared: %s", os.fsdecode(self._upper), why)
        self._why_unwatched = why
        self._gathering.doubt(f"it is not watched: {why}")

    def _lose(self, why: str) -> None:
        _log.info("%s is to be watched anew: %s", os.fsdecode(self._upper), why)
        self.close()
        self._gathering.doubt(why)
        if time.monotonic() >= self.due:
            self._make()

    def _directories(self, paths: Iterable[bytes]) -> Iterable[tuple[bytes, int]]:
        """Yield those of the paths that are directories.

        One that was moved, and back again, is new to nobody but the notifier, which gives up the
        watches below it and takes them again.
        """
        for path in paths:
            ino = inode_of_directory(self._upper, path)
            if ino is not None:
                yield path, ino

    def _doubt_the_queue(self, capacity: int, collected: Collected, *, is_crowded: bool) -> None:
        count = len(collected.touched)
        self._told += count
        may_overflow = is_crowded or count * _EVENTS_A_HINT >= capacity or self._told >= capacity
        if may_overflow:
            self._told = 0
            self._gathering.doubt("there were more changes than the kernel may have kept")

    def _look(self, notifier: Notifier) -> None:
        """Add the young directories that are watched by now; doubt all if one is not in time.

        The notifier has settled: what it has been told of new directories, it has watched.
        """
        now = time.monotonic()
        with self._looks.spend():
            watched = notifier.watched()
        grown = self._young.older(now - _STEP) if watched is None else self._young.grown(watched)
        self._gathering.touch(dict.fromkeys(grown, Touch.TREE))
        if self._young.older(now - _GROWN_WITHIN):
            self._lose("a directory is not watched")


def _reason(error: OSError) -> str:
    """Return what an error says; watchfiles' have no number."""
    return error.strerror or str(error)
