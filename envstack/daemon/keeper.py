"""Keeps the overlays mounted: the kernel tells of every change of the mount table, nobody polls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from anyio import CapacityLimiter, to_thread

from envstack.linux.mountinfo import MountTableWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskStatus


async def keep_watch(
    on_change: Callable[[], Awaitable[None]],
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Call `on_change` after every change of this namespace's mount table, until cancelled.

    Started when the watch is: a change after that is not missed.
    """
    with MountTableWatch() as watch:
        task_status.started()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_when_cancelled, watch)
            thread = CapacityLimiter(1)
            with anyio.CancelScope(shield=True):
                while await to_thread.run_sync(watch.wait, limiter=thread):
                    await on_change()


async def _stop_when_cancelled(watch: MountTableWatch) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        watch.stop()
