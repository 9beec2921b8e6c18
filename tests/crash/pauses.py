"""A daemon that stops in the middle of an operation until it is told to go on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from envstack.environment.steps import Step
from tests.crash.daemon import PAUSE, Order
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from tests.crash.crashbox import Crashbox

WITHIN = 20.0
SWAP = (Step.REGISTER, Step.PREPARE, Step.BUILD, Step.LOCK, Step.BENEATH, Step.DETACH, Step.COMMIT)
"""The steps of a checkpoint or a rollback that come before its answer."""

LIVE = (
    *(Step.STAGE, Step.COPY_CHANGES, Step.FREEZE, Step.CATCH_UP),
    *(Step.PUBLISH, Step.COMMIT, Step.REMEMBER),
)
"""Likewise of a live checkpoint."""


@contextmanager
def paused(box: Crashbox, step: Step, method: str, **params: object) -> Iterator[Future[Any]]:
    """Ask for something and go on when the daemon has stopped in it, before `step`; at the end of
    the context it goes on too."""
    box.orders.give(Order(PAUSE, step))
    with ThreadPoolExecutor(1) as pool:
        try:
            answer = pool.submit(box.ask, method, **params)
            waiting.until(lambda: step in box.orders.seen(), f"a pause before {step}")
            yield answer
        finally:
            box.orders.withdraw()
