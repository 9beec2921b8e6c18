"""Who asks, as the sequences see it: whom not to count as inside, whom to tell, when to stop."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.environment.context import Audience
from envstack.errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable

    from envstack.daemon.calls import Call


def askers(call: Call) -> frozenset[int]:
    """Return the processes that are inside only because they ask."""
    return frozenset({os.getpid(), call.peer_pid})


def check_of(call: Call) -> Callable[[], None]:
    """Return what raises Cancelled once nobody wants the answer any more."""

    def check() -> None:
        if call.cancelled.is_set():
            raise Cancelled("the request was cancelled; nothing was changed")

    return check


def audience(call: Call) -> Audience:
    """Return who waits for the answer."""
    check = check_of(call)

    def tell(message: str) -> None:
        check()
        call.report(message)

    def show(piece: bytes) -> None:
        check()
        call.show(piece)

    return Audience(tell, show)
