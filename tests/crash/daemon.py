"""The daemon under orders: at a step that it announces it notes it, waits, or kills itself.

Orders stand in a file, which is read anew at every announcement, so that a test can give them to a
daemon that runs already. Nothing of envstack is replaced but `announce`.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from envstack.daemon import process
from envstack.daemon.service import Service
from tests.support.ways import CHOICES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from envstack.environment.steps import Step

RECORD = "record"
PAUSE = "pause"
KILL = "kill"
ANY = "*"

_STEP = 0.002


@dataclass(frozen=True, slots=True)
class Order:
    """What to do at the `nth` announcement of the step `at`, counted since the order was given."""

    do: str
    at: str = ANY
    nth: int = 1


class Orders:
    """The file that a test and its daemon share; `seen` lists what was announced under it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = path.with_suffix(".seen")

    def give(self, order: Order) -> None:
        """Make `order` the one that counts, from the next announcement on."""
        self._seen.write_bytes(b"")
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(order)))
        fresh.rename(self.path)

    def withdraw(self) -> None:
        """End the order that counts, and let go on who waits because of it."""
        self.path.unlink(missing_ok=True)

    def read(self) -> Order | None:
        """Return the order that counts."""
        try:
            return Order(**json.loads(self.path.read_text()))
        except FileNotFoundError:
            return None

    def note(self, step: str) -> None:
        """Write down an announcement."""
        with self._seen.open("a") as file:
            file.write(f"{step}\n")

    def seen(self) -> list[str]:
        """Return what was announced since the order was given."""
        return self._seen.read_text().split()

    def delete(self) -> None:
        """Leave no file behind."""
        self.withdraw()
        self._seen.unlink(missing_ok=True)


class Obedience:
    """The `announce` of a daemon under orders."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._lock = threading.Lock()

    def __call__(self, step: Step) -> None:
        with self._lock:
            order = self._orders.read()
            if order is None:
                return
            self._orders.note(step)
            seen = self._orders.seen()
            count = len(seen) if order.at == ANY else seen.count(order.at)
            is_meant = order.at in (step, ANY) and count == order.nth
            if is_meant and order.do == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
        while is_meant and order.do == PAUSE and self._orders.read() == order:
            time.sleep(_STEP)


def run(environ: Mapping[str, str], ready_fd: int, orders: Path, way: str) -> int:
    """Be the daemon under `orders`, which mounts in `way`, until it ends; return its exit code."""
    announce = Obedience(Orders(orders))
    serve = partial(Service, announce=announce, choose=CHOICES[way])
    return process.main(environ, ready_fd, serve)
