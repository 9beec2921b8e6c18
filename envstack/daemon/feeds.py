"""The feeds of all environments: each is kept up to date, and watched while it is up.

Owns the watchers and the tasks that look after them. What is told, and in which order, is the
follower's business; who reads it, that of subscriptions.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio import CapacityLimiter, from_thread, to_thread

from envstack.daemon.threads import run_to_its_end
from envstack.environment.views import views
from envstack.errors import EnvstackError
from envstack.feed.doubt import grain_of
from envstack.feed.follower import Follower
from envstack.feed.hints import Touch
from envstack.feed.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

    from anyio.abc import TaskGroup

    from envstack.environment.context import Context
    from envstack.feed.hints import Hints
    from envstack.model import EnvId, LayerId
    from envstack.store.journal import Position

_log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 8
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class Feed:
    """One environment: its follower, and the watcher of the upper that it has now."""

    def __init__(self, ctx: Context, env: EnvId, grain: int) -> None:
        self.env = env
        self.grown = anyio.Event()
        self.nudged = anyio.Event()
        self._ctx = ctx
        self._loop = asyncio.get_running_loop()
        self.follower = Follower(ctx.store, env, views(ctx, env), grain, self._has_grown)
        self._lock = threading.Lock()
        self._is_closed = False
        self._watched: LayerId | None = None
        self._watcher: Watcher | None = None

    def bring_up_to_date(self) -> bool:
        """Tell what was done, and watch what is to be watched; False once there is nothing more.

        Raises EnvstackError and OSError where it cannot be done now.
        """
        with self._lock:
            if self._is_closed or not self._ctx.store.db.knows(self.env):
                self._stop()
                return False
            upper = self.follower.advance()
            if self._watched == upper:
                self.follower.recheck()
            if self._watched != upper or not self._is_up(upper):
                self._stop()
            if self._watched is None and self._is_up(upper):
                self._watch(upper)
            return True

    def close(self) -> None:
        """Watch no more, for good."""
        with self._lock:
            self._is_closed = True
            self._stop()

    def _is_up(self, upper: LayerId) -> bool:
        store = self._ctx.store
        return store.db.environment(self.env).wanted and store.layers.exists(upper)

    def _stop(self) -> None:
        watcher, self._watcher, self._watched = self._watcher, None, None
        if watcher is not None:
            watcher.stop()

    def _watch(self, upper: LayerId) -> None:
        take = partial(self._take, upper)
        self._watcher = Watcher(self._ctx.store.layers.fs(upper), take, self.follower.patrol)
        self._watcher.start()
        self._watched = upper

    def _take(self, upper: LayerId, hints: Hints) -> Iterable[tuple[bytes, int]]:
        if hints.doubt is not None:
            _log.debug("%s: everything is looked at: %s", self.env, hints.doubt)
            return self.follower.sweep(upper)
        trees = [path for path, touch in hints.touched.items() if touch is Touch.TREE]
        return self.follower.take(upper, hints.touched, trees)

    def _has_grown(self) -> None:
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        grown, self.grown = self.grown, anyio.Event()
        grown.set()


class Feeds:
    """A context manager; leaving it ends the watchers, and the journals stay as they are.

    Before `open`, nothing is followed.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._threads = CapacityLimiter(_THREADS)
        self._feeds: dict[EnvId, Feed] = {}

    async def __aenter__(self) -> Self:
        return self

    async def open(self, ctx: Context) -> None:
        """Follow the environments of `ctx` whenever that is asked for."""
        self._ctx = ctx
        self._grain = await to_thread.run_sync(grain_of, ctx.store.home)

    async def begin(self) -> None:
        """Follow every environment that there is."""
        for env in await to_thread.run_sync(self._known):
            self.nudge(env)

    def follower(self, env: EnvId) -> Follower:
        """Return the follower of an environment; to be called in a worker thread."""
        return from_thread.run_sync(self.nudge, env).follower

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            for feed in list(self._feeds.values()):
                await to_thread.run_sync(feed.close)

    def _known(self) -> list[EnvId]:
        """Return the environments, and forget the feeds of those that are no more."""
        known = [env.id for env in self._ctx.store.db.environments()]
        for env in set(self._ctx.store.journal.environments()) - set(known):
            self._ctx.store.journal.forget(env)
        return known

    def nudge(self, env: EnvId) -> Feed:
        """See to it that what was done to an environment is told soon; return its feed."""
        feed = self._feeds.get(env)
        if feed is None:
            feed = self._feeds[env] = Feed(self._ctx, env, self._grain)
            self._tasks.start_soon(self._attend, feed)
        feed.nudged.set()
        return feed

    async def sync(self, env: EnvId) -> Position:
        """Return a place such that every change made before this call stands before it."""
        return await self._in_thread(self.nudge(env).follower.sync)

    async def reset(self, env: EnvId) -> None:
        """Begin a feed anew, where what was changed below the mount cannot be told."""
        await self._in_thread(self.nudge(env).follower.reset)

    async def _attend(self, feed: Feed) -> None:
        pause = _FIRST_PAUSE
        while True:
            nudged = feed.nudged = anyio.Event()
            try:
                if not await self._in_thread(feed.bring_up_to_date):
                    break
            except Exception as error:
                is_known = isinstance(error, EnvstackError | OSError)
                _log.warning("the feed of %s is behind: %s", feed.env, error, exc_info=not is_known)
                with anyio.move_on_after(pause):
                    await nudged.wait()
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            await nudged.wait()
        del self._feeds[feed.env]
        feed.grown.set()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await run_to_its_end(work, self._threads)
