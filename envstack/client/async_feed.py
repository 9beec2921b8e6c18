"""The feed for programs that run an event loop: an asynchronous iterator of typed events.

On asyncio and on trio, through anyio; the only module of the client that imports it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Self

from anyio import to_thread, wait_readable
from anyio.lowlevel import checkpoint

from envstack.client.connection import ConnectionEnded
from envstack.client.subscription import AnyPath, Subscription, own_daemon, params_of, subscribe
from envstack.rpc.feed import Event, from_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


@asynccontextmanager
async def awatch(
    stack: AnyPath, *, since: str | None = None, ignore: Sequence[str] = (), prefix: AnyPath = ""
) -> AsyncIterator[AsyncFeed]:
    """Like `feed.watch`: yield the events of an environment, as they come."""
    params = params_of(stack, since, ignore, prefix)
    subscription = await to_thread.run_sync(partial(subscribe, own_daemon(), params))
    try:
        yield AsyncFeed(subscription)
    finally:
        subscription.close()


class AsyncFeed:
    """Events, one by one, as they come; ends when it is stopped."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        subscription = self._subscription
        await checkpoint()
        while not subscription.is_stopped:
            try:
                if (told := subscription.take()) is not None:
                    return from_json(told)
                await wait_readable(subscription.fileno())
                subscription.receive()
            except ConnectionEnded:
                if not subscription.is_stopped:
                    # Given up when this is cancelled; `close` sees to what it still makes.
                    await to_thread.run_sync(subscription.renew, abandon_on_cancel=True)
        raise StopAsyncIteration

    def stop(self) -> None:
        """End the iteration, from any task or thread."""
        self._subscription.stop()
