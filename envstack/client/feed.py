"""The feed for programs that wait for it: an iterator of typed events, and the barrier."""

from __future__ import annotations

import select
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Self

from envstack.client import connect
from envstack.client.connection import ConnectionEnded
from envstack.client.subscription import (
    AnyPath,
    Subscription,
    own_daemon,
    params_of,
    stack_file,
    subscribe,
)
from envstack.rpc.feed import Event, Synced, from_json
from envstack.rpc.messages import FEED_SYNC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from envstack.rpc.messages import Json


@contextmanager
def watch(
    stack: AnyPath, *, since: str | None = None, ignore: Sequence[str] = (), prefix: AnyPath = ""
) -> Iterator[Feed]:
    """Yield the events of an environment, from now on or after the cursor `since`.

    `stack` is the stack file or its directory. Paths that match `ignore`, patterns as in a
    .gitignore file, are left out, and those that do not lie at or below `prefix`, a path of the
    merged tree, absolute or relative to its root. The first event is `Ready`, and there is one more
    whenever the daemon was killed: it is started again, and the feed goes on after the last event
    that was taken.

    Raises NotRunning where no daemon runs, and what else `connect` does; the iterator raises
    RemoteError where the daemon refuses (its `kind` is `not-up` where the environment is not up),
    NoDaemon where it was stopped, or ends again and again.
    """
    params = params_of(stack, since, ignore, prefix)
    with closing(subscribe(own_daemon(), params)) as subscription:
        yield Feed(subscription)


def sync(stack: AnyPath) -> Synced:
    """Return a place in the feed: every change that was made before the call stands before it.

    Raises as `watch` does.
    """
    with connect(own_daemon()) as client:
        answer = client.call(FEED_SYNC, {"stack": stack_file(stack)})
    return Synced(answer["cursor"], answer["seq"])


class Feed:
    """Events, one by one, as they come; ends when it is stopped."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        told = self.told(_for_ever)
        if told is None:
            raise StopIteration
        return from_json(told)

    def told(self, wait: Callable[[int], bool]) -> Json | None:
        """Return the next feed object; None where there is none and it is stopped or `wait` ends.

        `wait` is given a descriptor, and returns whether there is something to be read from it.
        """
        subscription = self._subscription
        while not subscription.is_stopped:
            try:
                if (told := subscription.take()) is not None:
                    return told
                if not wait(subscription.fileno()):
                    return None
                subscription.receive()
            except ConnectionEnded:
                if not subscription.is_stopped:
                    subscription.renew()
        return None

    def stop(self) -> None:
        """End the iteration, from any thread or from a signal handler's."""
        self._subscription.stop()


def _for_ever(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll())
