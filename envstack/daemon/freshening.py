"""Lays fresh uppers when nobody is inside any more.

Nothing wakes the daemon for that while no upper repeats what layers hold. What makes one repeat
them is work on its environment: after that it is looked at, now and then, until it is exchanged.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import anyio

from envstack.environment import fresh
from envstack.errors import EnvstackError

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from envstack.daemon.access import Access
    from envstack.model import EnvId

_log = logging.getLogger(__name__)

_PAUSE = 30.0
"""Seconds until the first look, which asks all processes where they are, and twice as long until
each of the next."""

_LONGEST_PAUSE = 300.0


class Freshening:
    """One task an environment, as long as its upper is to be exchanged."""

    def __init__(self, access: Access, tasks: TaskGroup) -> None:
        self._access = access
        self._tasks = tasks
        self._again: dict[EnvId, bool] = {}
        """Those that are attended to: has somebody worked with one since it was last looked at?"""

    def nudge(self, env: EnvId) -> None:
        """See to an environment that somebody has worked with."""
        if env in self._again:
            self._again[env] = True
        else:
            self._again[env] = False
            self._tasks.start_soon(self._attend, env)

    async def _attend(self, env: EnvId) -> None:
        pause = _PAUSE
        while True:
            self._again[env] = False
            stack_path = await self._access.in_thread(lambda: self._due(env))
            if stack_path is not None:
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                await self._access.exclusively(stack_path, lambda: self._lay(env))
            elif not self._again[env]:
                break
        del self._again[env]

    def _due(self, env: EnvId) -> bytes | None:
        """Return the stack file of an environment that has an upper to be exchanged."""
        try:
            found = self._access.ctx.store.db.environment(env)
            return found.stack_path if fresh.is_due(self._access.ctx, found) else None
        except EnvstackError:  # purged, or damaged: whoever asks for it is told
            return None

    def _lay(self, env: EnvId) -> None:
        ctx = self._access.ctx
        try:
            # One with an open intent is settled by the next request first.
            if ctx.store.db.knows(env) and ctx.store.db.intent(env) is None:
                fresh.lay(ctx, ctx.store.db.environment(env), frozenset({os.getpid()}))
        except (EnvstackError, OSError) as error:
            _log.warning("an upper that repeats layers cannot be exchanged: %s", error)
