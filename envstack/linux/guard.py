"""Who lets frozen processes go on when the one that froze them is no more.

Owns the orders that are given to a guard: what to thaw, and how. The guard's process is the
launcher's: it hears that the daemon has ended, however that was, because its socket is closed.
"""

from __future__ import annotations

from contextlib import suppress

from envstack.linux import stopping
from envstack.linux.cgroup import Cgroup

HOLD, FREE = b"hold ", b"free "
"""The words before an order: to be carried out at the end, and no longer to be."""


class Guard:
    """The orders that stand, at the guard's own end."""

    def __init__(self) -> None:
        self._orders: set[bytes] = set()

    def hear(self, said: bytes) -> None:
        """Take an order, or take it back."""
        if said.startswith(HOLD):
            self._orders.add(said.removeprefix(HOLD))
        else:
            self._orders.discard(said.removeprefix(FREE))

    def release(self) -> None:
        """Carry out every order that stands; one that cannot be keeps none of the others."""
        for order in self._orders:
            with suppress(OSError):  # there is nobody left to be told
                thaw(order)
        self._orders.clear()


def thaw(order: bytes) -> None:
    """Carry out one order; no harm where nobody is frozen any more."""
    kind, _, where = order.partition(b" ")
    if kind == stopping.KIND:
        stopping.let_go(where)
    else:
        Cgroup(kind, where).thaw()
