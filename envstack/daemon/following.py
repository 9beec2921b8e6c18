"""The methods `feed.*`: who follows an environment, and the barrier that makes sure of the feed."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

from envstack.daemon.params import Params
from envstack.daemon.subscriptions import Subscriptions, Wish
from envstack.environment import compare
from envstack.errors import NotUp
from envstack.feed import cursor
from envstack.feed.sieve import Sieve
from envstack.rpc import messages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from envstack.daemon.access import Access
    from envstack.daemon.calls import Call, Handler
    from envstack.daemon.feeds import Feeds
    from envstack.model import Change, Environment


class Following:
    """Serves the feeds of the environments that `access` finds."""

    def __init__(self, access: Access, feeds: Feeds) -> None:
        self._access = access
        self._feeds = feeds
        self._subscriptions = Subscriptions(access.ctx.store, self._difference)

    def methods(self) -> Mapping[str, Handler]:
        """Return the handlers of `feed.*`."""
        return {messages.FEED_SUBSCRIBE: self._subscribe, messages.FEED_SYNC: self._sync}

    async def _subscribe(self, call: Call, raw: dict[str, Any]) -> Any:
        params = Params(raw)
        env = await self._access.in_thread(lambda: self._up(params))
        wish = await self._access.in_thread(lambda: self._wish(params, env))
        await self._subscriptions.serve(call, self._feeds.nudge(env.id), wish)

    async def _sync(self, _call: Call, raw: dict[str, Any]) -> Any:
        env = await self._access.in_thread(lambda: self._up(Params(raw)))
        place = await self._feeds.sync(env.id)
        return {"cursor": cursor.text(env.id, place), "seq": place.seq}

    def _up(self, params: Params) -> Environment:
        env = self._access.find(params)
        if not env.wanted:
            raise NotUp(f"environment {env.name!r} is not up", "envstack up")
        return env

    def _wish(self, params: Params, env: Environment) -> Wish:
        since, prefix = params.optional_text("since"), params.optional_path("prefix")
        place = None if since is None else cursor.parse(env.id, since)
        patterns = (*self._access.load(env.stack_path).ignore, *params.lines("ignore"))
        return Wish(place, Sieve(patterns, compare.inside(env, prefix or b".")))

    async def _difference(self, env: Environment) -> list[Change]:
        """Return what the merged tree has changed since the head."""

        def work(env: Environment) -> list[Change]:
            request = compare.Request()
            with closing(compare.compare(self._access.ctx, env, request)) as found:
                return [each.change for each in found]

        return await self._access.seen(Params({"stack": os.fsdecode(env.stack_path)}), work)
