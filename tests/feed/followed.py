"""A sandbox that is up and a mirror that follows it, taken through storms together."""

from __future__ import annotations

import random
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from envstack.errors import NoDaemon
from tests.support import waiting
from tests.support.feed import SocketSource
from tests.support.mirror import Mirror

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.feed.storms import Storm
    from tests.support.sandbox import Json, Sandbox

_LONGEST = 0.5
"""Seconds that a daemon may live under fire."""

_RESUMPTIONS = 5


class Followed:
    """Every method leaves the mirror equal to the merged tree, or fails."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        sandbox.up()
        self.source = SocketSource(sandbox)
        self.mirror = Mirror(self.source)
        self.mirror.check()

    def close(self) -> None:
        """End the subscription."""
        self.mirror.close()

    def ride(self, storm: Storm) -> None:
        """Let the storm blow while the mirror reads on, and compare wherever it holds its breath.

        Cursors that were seen on the way lead to the same events again.
        """
        steps = storm(self.sandbox.merged)
        is_over = False
        while not is_over:
            with self.mirror.reading():
                is_over = next(steps, self) is self
            self.mirror.check()
        self.check_resumptions()

    def ride_under_fire(self, storm: Storm, seed: int) -> None:
        """Let the storm blow from end to end while one daemon after the other is killed.

        Each dies at a moment that `seed` decides, and one at last; they are started by whoever
        needs them.
        """
        with self._fire(random.Random(seed)), self.mirror.reading():
            for _ in storm(self.sandbox.merged):
                pass
        self.mirror.check()

    def check_resumptions(self) -> None:
        """Subscribe from a few places that were seen, the first and the last among them."""
        told = len(self.mirror.told)
        places = random.sample(range(told), min(told, _RESUMPTIONS))
        for place in {0, *places, told - 1}:
            self.mirror.check_resumption(place)

    def checkpoint(self) -> str:
        """Seal what is there and return the id."""
        answer = self.sandbox.checkpoint()
        self.mirror.check()
        rev: str = answer["id"]
        assert [told["id"] for told in self.events("checkpoint")][-1] == rev
        return rev

    def rollback(self, rev: str) -> None:
        """Go back, discarding what is not sealed."""
        answer = self.sandbox.rollback(rev, discard=True)
        self.mirror.check()
        assert [told["to"] for told in self.events("rollback-end")][-1] == answer["to"]

    def events(self, kind: str) -> list[Json]:
        """Return what the mirror was told of one kind since it was last told to list anew."""
        return [told for told in self.mirror.told if told["event"] == kind]

    @contextmanager
    def _fire(self, moments: random.Random) -> Iterator[None]:
        is_over = threading.Event()

        def fire() -> None:
            while not is_over.wait(moments.uniform(0, _LONGEST)):
                self._kill()

        killer = threading.Thread(target=fire)
        killer.start()
        try:
            yield
        finally:
            is_over.set()
            killer.join()
        self._kill()

    def _kill(self) -> None:
        try:
            with self.sandbox.connect() as client:
                pid = client.daemon_pid
        except NoDaemon:
            return  # it is about to start, or to end
        waiting.kill(pid, signal.SIGKILL, "the daemon")
