"""Blocking work in threads, to its end: who is cancelled meanwhile waits for what has begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio import to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio import CapacityLimiter

T = TypeVar("T")


async def run_to_its_end(work: Callable[[], T], limiter: CapacityLimiter) -> T:
    """Return what `work` returns, or raise what it raises."""
    with anyio.CancelScope(shield=True) as shield:
        result = await to_thread.run_sync(work, limiter=limiter)
    assert not shield.cancelled_caught
    return result
