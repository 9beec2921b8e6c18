"""Waiting for what the kernel gives no event for, with a bound."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_STEP = 0.005


def until(condition: Callable[[], bool], what: str, within: float = 10.0) -> None:
    """Return as soon as `condition()` holds; raise TimeoutError naming `what` after `within` s."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within} s: {what}")
        time.sleep(_STEP)


def exited(pidfd: int, what: str, within: float = 10.0) -> None:
    """Return once the process of `pidfd` is dead, reaped or not (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(within * 1000):
        raise TimeoutError(f"not within {within} s: end of {what}")


def kill(pid: int, number: int, what: str, within: float = 10.0) -> None:
    """Send signal `number` to `pid` and wait for its death; a process already gone is none."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        os.kill(pid, number)
        exited(pidfd, what, within)
    finally:
        os.close(pidfd)
