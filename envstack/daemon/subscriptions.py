"""Those who follow a feed: each reads the journal at its own pace, from its own place.

Nothing is kept for anybody: who is slow is behind, and who is behind what the journal holds is told
to begin anew. A subscription is a request that runs until its peer has enough.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread

from envstack.errors import NotUp
from envstack.feed import cursor
from envstack.feed.telling import events, in_telling_order
from envstack.rpc.feed import Ready, to_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from envstack.daemon.calls import Call
    from envstack.daemon.feeds import Feed
    from envstack.feed.sieve import Sieve
    from envstack.model import Change, Environment
    from envstack.store.journal import Position
    from envstack.store.store import Store

_AT_ONCE = 16
"""Events that are read from the journal at a time: of 1,000 changes each, if it is behind."""

_READERS = 4

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a subscriber asks for: from where on (None: from now on), and what of it."""

    since: Position | None
    sieve: Sieve


class Subscriptions:
    """Serves subscribers; `difference` returns what the merged tree has changed since its head."""

    def __init__(
        self, store: Store, difference: Callable[[Environment], Awaitable[list[Change]]]
    ) -> None:
        self._store = store
        self._difference = difference
        self._threads = CapacityLimiter(_READERS)

    async def serve(self, call: Call, feed: Feed, wish: Wish) -> None:
        """Send events until cancelled. Raises NotUp once the environment is deleted."""
        place = await self._begin(call, feed, wish)
        while True:
            grown = feed.grown  # before reading: what comes while we read is not slept over
            told = await self._run(partial(self._read, feed, place))
            if told is None:
                place = await self._begin_anew(call, feed, wish)
            elif not told:
                await grown.wait()
            for position, event in told or ():
                place = position
                if (wanted := wish.sieve.sift(event)) is not None:
                    await call.tell(wanted)

    async def _begin(self, call: Call, feed: Feed, wish: Wish) -> Position:
        """Say where the stream begins, and return that place."""
        place: Position = wish.since or await self._run(partial(self._end, feed))
        if await self._run(partial(self._read, feed, place)) is None:
            return await self._begin_anew(call, feed, wish)
        await call.tell(to_json(await self._run(partial(self._ready, feed, place, fresh=False))))
        return place

    async def _begin_anew(self, call: Call, feed: Feed, wish: Wish) -> Position:
        """Tell the whole difference from the head; what changes meanwhile is told after it."""
        place: Position = await self._run(partial(self._end, feed))
        ready: Ready = await self._run(partial(self._ready, feed, place, fresh=True))
        changes = await self._difference(self._store.db.environment(feed.env))
        await call.tell(to_json(ready))
        for event in events(in_telling_order(changes), ready.cursor, ready.seq):
            if (wanted := wish.sieve.sift(to_json(event))) is not None:
                await call.tell(wanted)
        return place

    def _read(self, feed: Feed, place: Position) -> list[tuple[Position, Json]] | None:
        """Return what follows a place, None where that is out of reach."""
        told = self._store.journal.after(feed.env, place, _AT_ONCE)
        if told is None:
            self._require(feed)
            return None
        return [(each.position, self._event(feed, each.position, each.body)) for each in told]

    def _event(self, feed: Feed, position: Position, body: str) -> Json:
        event = json.loads(body)
        where = {"cursor": cursor.text(feed.env, position), "seq": position.seq}
        return {"event": event.pop("event"), **where, **event}

    def _end(self, feed: Feed) -> Position:
        self._require(feed)
        feed.follower.advance()  # one that was never begun begins here
        end = self._store.journal.end(feed.env)
        if end is None:
            raise self._gone()
        return end

    def _ready(self, feed: Feed, place: Position, *, fresh: bool) -> Ready:
        env = self._store.db.environment(feed.env)
        where = cursor.text(env.id, place)
        return Ready(where, place.seq, env.name, env.mount, env.head, fresh)

    def _require(self, feed: Feed) -> None:
        if not self._store.db.knows(feed.env):
            raise self._gone()

    def _gone(self) -> NotUp:
        return NotUp("the environment was deleted", "envstack up")

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await to_thread.run_sync(work, limiter=self._threads)
