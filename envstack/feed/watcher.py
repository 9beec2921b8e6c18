"""The thread that learns where in an upper something may have changed, and says so.

It is blocked while nothing happens. What is told is not all that happens: watchfiles and the kernel
drop events, mostly in silence. Whatever may have gone untold is a doubt, hence a comparison of the
whole upper, which may have a tenth of the time. Knows neither what an upper is compared with nor
what becomes of the outcome.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import nullcontext
from math import inf
from typing import TYPE_CHECKING

from envstack.errors import EnvstackError
from envstack.feed.hints import Gathering
from envstack.feed.lookout import Lookout
from envstack.feed.pacing import Patrols, Pauses, Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from envstack.feed.hints import Hints

_log = logging.getLogger(__name__)

_BELL = frozenset({signal.SIGIO})
"""What the notifier's events ring, and `stop`. Several that wait are one."""

_FIRST_PACE, _LAST_PACE = 0.0005, 0.002
"""Seconds from a ring until what it is about is collected: after quiet, and in a storm."""
_FASTEST_STEP, _SLOWEST_STEP = 0.01, 0.16
"""Seconds from one look to the next where nothing rings: after something was told, and in quiet."""
_GROWTH = 1.5
_QUIET = 0.02

_DOUBTING = 0.1
"""The part of the time that is for the comparison of the whole upper."""


class Watcher:
    """Watches one upper from `start` to `stop`, in a thread of its own.

    `take` is called in that thread with what was touched, and returns the directories that it found
    new, each with its inode number. If it fails all is doubtful, and it is called again some time
    later. `patrol` is called there too, every 5 s at most, if anything was opened or closed since
    or if it said that it has more to do.
    """

    def __init__(
        self,
        upper: bytes,
        take: Callable[[Hints], Iterable[tuple[bytes, int]]],
        patrol: Callable[[], bool],
    ) -> None:
        self._take = take
        self._patrol = patrol
        self._gathering = Gathering()
        self._lookout = Lookout(upper, self._gathering)
        self._doubts = Share(_DOUBTING)
        self._failures = Pauses(0.05, 5.0)
        self._patrols = Patrols(5.0, 640.0)
        self._pace = _FIRST_PACE
        self._step = _FASTEST_STEP
        self._has_echo = False
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._life = threading.Lock()
        self._can_be_rung = False
        self._is_stopped = False

    def start(self) -> None:
        """Begin. The first that `take` gets is the doubt of everything."""
        self._thread.start()

    def stop(self) -> None:
        """End, and return when the thread has ended; nothing is called any more then.

        From within `take` or `patrol` it returns at once, and the thread ends after them.
        """
        with self._life:
            self._is_stopped = True
            if self._can_be_rung and self._thread.ident is not None:
                signal.pthread_kill(self._thread.ident, signal.SIGIO)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _BELL)
        with self._life:
            self._can_be_rung = True
        try:
            while not self._is_stopped:
                self._go_round()
        except Exception:
            _log.exception("the thread that watches has ended, and should not")
            raise
        finally:
            self._lookout.close()
            with self._life:
                self._can_be_rung = False

    def _go_round(self) -> None:
        has_news = self._lookout.gather()
        self._step = _FASTEST_STEP if has_news else min(self._step * _GROWTH, _SLOWEST_STEP)
        self._hand_out()
        self._go_on_patrol()
        self._rest()

    def _hand_out(self) -> None:
        if time.monotonic() < self._due_by_hints:
            return
        is_doubtful = self._gathering.is_doubtful and time.monotonic() >= self._doubts.due
        hints = self._gathering.everything() if is_doubtful else self._gathering.touched()
        try:
            with self._doubts.spend() if is_doubtful else nullcontext():
                new = list(self._take(hints))
        except Exception as error:
            self._failures.grow()
            self._gathering.doubt(hints.doubt or "what was told could not be taken in")
            _log.warning("a change is not taken in: %s", error, exc_info=_unless_known(error))
        else:
            self._failures.reset()
            self._lookout.found(new)
        self._mind_echo()

    def _go_on_patrol(self) -> None:
        if time.monotonic() < self._patrols.due:
            return
        has_more = True
        try:
            has_more = self._patrol()
        except Exception as error:
            _log.warning("a patrol failed: %s", error, exc_info=_unless_known(error))
        self._patrols.done(has_more=has_more)
        self._mind_echo()

    def _mind_echo(self) -> None:
        """Take note of what rang during our own work: our own opening of files, or others' doings.

        No event of ours comes later, for an event is queued before open(2) returns.
        """
        if signal.sigtimedwait(_BELL, 0):
            self._has_echo = True
            self._patrols.heard_ourselves()

    def _rest(self) -> None:
        """Return when there may be something to gather, or something is due."""
        if self._has_echo or self._lookout.is_behind:
            self._has_echo = False
            time.sleep(self._pace)
            return
        began = time.monotonic()
        due = min(self._due_by_hints, self._lookout.due, self._patrols.due)
        if not self._lookout.is_watching or self._lookout.has_bell:
            has_rung = _await_ring(due - began)
        else:
            has_rung = _await_ring(min(due - began, self._step)) or True
        if has_rung and not self._is_stopped:
            self._patrols.heard()
            is_quiet = time.monotonic() - began > _QUIET
            self._pace = _FIRST_PACE if is_quiet else min(self._pace * _GROWTH, _LAST_PACE)
            time.sleep(self._pace)

    @property
    def _due_by_hints(self) -> float:
        """When the next hints may be handed out."""
        if self._gathering.is_touched:
            return self._failures.due
        return max(self._doubts.due, self._failures.due) if self._gathering.is_doubtful else inf


def _await_ring(seconds: float) -> bool:
    """Block until the bell rings; tell whether it did within that time (inf: for ever)."""
    if seconds == inf:
        return bool(signal.sigwaitinfo(_BELL))
    return signal.sigtimedwait(_BELL, max(seconds, 0.0)) is not None


def _unless_known(error: Exception) -> bool:
    """Tell whether a trace is of use: it is for a fault of the program's."""
    return not isinstance(error, EnvstackError | OSError)
