"""The environments, served: one caller at a time for each, all of them side by side.

Owns the store, the locks and the background work while the daemon runs. It turns requests into
calls of `environment` and their answers into JSON; the order of steps is not its business.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
from anyio import to_thread

from envstack.daemon import below
from envstack.daemon.access import Access
from envstack.daemon.asking import askers, audience, check_of
from envstack.daemon.feeds import Feeds
from envstack.daemon.following import Following
from envstack.daemon.freshening import Freshening
from envstack.daemon.jobs import Jobs
from envstack.daemon.keeper import keep_watch
from envstack.daemon.listing import listing
from envstack.daemon.params import Params
from envstack.daemon.sides import changes, comparison
from envstack.environment import (
    checkpoint,
    compare,
    down,
    drift,
    durability,
    enter,
    exchange,
    history,
    inside,
    recover,
    rollback,
    status,
    trust,
    up,
)
from envstack.environment.base import Request
from envstack.environment.context import Context
from envstack.environment.groups import Groups
from envstack.environment.sizes import Sizes
from envstack.errors import EnvstackError, NotUp
from envstack.rpc import shapes
from envstack.stackfile.limits import Limits
from envstack.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

    from envstack.daemon.calls import Call, Handler
    from envstack.environment.exchange import Mounts
    from envstack.environment.steps import Step
    from envstack.linux.launcher import Launcher
    from envstack.model import EnvId, Environment, Status
    from envstack.overlay.diff import Difference

_log = logging.getLogger(__name__)

T = TypeVar("T")

_SWITCH_INTERVAL = 0.0005
"""Seconds: a rotation of half a millisecond must not wait ten times that for a background job."""


def announce_nothing(_step: Step) -> None:
    """Take no notice of a step: what a test replaces."""


class Service:
    """The daemon's methods over the store at `home`; entering it recovers what was left behind."""

    def __init__(
        self,
        home: bytes,
        launcher: Launcher,
        announce: Callable[[Step], None] = announce_nothing,
        choose: Callable[[Store], Mounts] = exchange.choose,
        limits: Limits | None = None,
    ) -> None:
        self._home = home
        self._launcher = launcher
        self._announce = announce
        self._choose = choose
        self._limits = limits or Limits()
        self._stack = AsyncExitStack()
        self._looked_after: set[bytes] = set()

    async def __aenter__(self) -> Self:
        sys.setswitchinterval(_SWITCH_INTERVAL)
        async with AsyncExitStack() as stack:
            opened = await to_thread.run_sync(Store, self._home, self._limits.journal)
            store = stack.enter_context(opened)
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            jobs = Jobs(self._tasks)
            mounts = await to_thread.run_sync(self._choose, store)
            feeds = await stack.enter_async_context(Feeds(self._tasks))
            groups = Groups(self._home, self._launcher)
            ctx = Context(
                *(store, self._announce, jobs.defer, self._launcher, mounts),
                *(feeds.follower, groups),
                freeze=groups.freeze,
                limits=self._limits,
            )
            self._sizes = Sizes(ctx)
            await feeds.open(ctx)
            await to_thread.run_sync(groups.recover)
            await to_thread.run_sync(recover.recover, ctx)
            await feeds.begin()
            self.access = Access(ctx, self._worked)
            self._feeds = feeds
            self._freshening = Freshening(self.access, self._tasks)
            self._following = Following(self.access, feeds)
            jobs.open()
            for env in await to_thread.run_sync(ctx.store.db.environments):
                self._freshening.nudge(env.id)
            await self._tasks.start(keep_watch, self._put_back)
            stack.callback(self._tasks.cancel_scope.cancel)
            stack.callback(self._sizes.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, traceback)

    def _worked(self, env: EnvId) -> None:
        """Take note that somebody has worked with an environment."""
        self._feeds.nudge(env)
        self._freshening.nudge(env)

    @property
    def _ctx(self) -> Context:
        return self.access.ctx

    def methods(self) -> Mapping[str, Handler]:
        """Return the handlers of `env.*`, `feed.*` and `trust.*`."""
        return {
            **self._following.methods(),
            "env.up": self._up,
            "env.down": self._down,
            "env.status": self._status,
            "env.glance": self._glance,
            "env.list": self._list,
            "env.enter": self._enter,
            "env.checkpoint": self._checkpoint,
            "env.rollback": self._rollback,
            "env.log": self._log,
            "env.diff": self._diff,
            "env.compare": self._compare,
            "trust.add": self._trust,
            "trust.list": self._trusted,
            "trust.revoke": self._revoke,
        }

    def environments(self) -> list[str]:
        """Return the names of the environments that are to be kept up."""
        return [env.name for env in self._ctx.store.db.environments() if env.wanted]

    async def _up(self, call: Call, raw: dict[str, Any]) -> Any:
        params = Params(raw)
        path = os.path.realpath(params.path("stack"))
        is_relay, force = params.flag("relay"), params.flag("force")
        consent, trusts = params.optional_text("consent"), params.flag("trust")
        environ = {
            os.fsencode(name): os.fsencode(value) for name, value in params.texts("environ").items()
        }
        request = Request(audience(call), environ, params.optional_text("rebuild"), askers(call))

        def work(env: Environment | None) -> Any:
            stack = self.access.load(path)
            if trusts or consent == trust.terms(stack).digest:
                trust.trust(self._ctx, stack)
            brought = up.up(self._ctx, env, stack, request)
            if env is not None and env.wanted:  # else it was mounted just now, as it is
                if is_relay:
                    return below.lay_anew(self._ctx, call, brought, force=force)
                drift.look_now_or_soon(self._ctx, brought.env)
            shown = status.status(self._ctx, brought.env.id)
            left = inside.left_below(brought.env, request.ignore)
            return shapes.brought(brought, replace(shown, left_below=left))

        answer = await self.access.exclusively(path, lambda: work(self.access.settled(path)))
        if is_relay and (env := await self.access.in_thread(lambda: self.access.by_stack(path))):
            await self._feeds.reset(env.id)
        return answer

    async def _trust(self, _call: Call, raw: dict[str, Any]) -> Any:
        path = os.path.realpath(Params(raw).path("stack"))

        def work() -> Any:
            return shapes.terms(trust.trust(self._ctx, self.access.load(path)))

        return await self.access.exclusively(path, work)

    async def _trusted(self, _call: Call, _raw: dict[str, Any]) -> Any:
        return await self.access.in_thread(
            lambda: [shapes.trusted(row) for row in self._ctx.store.trust.all()]
        )

    async def _revoke(self, _call: Call, raw: dict[str, Any]) -> Any:
        path = os.path.realpath(Params(raw).path("stack"))
        return await self.access.in_thread(lambda: {"revoked": trust.revoke(self._ctx, path)})

    async def _down(self, call: Call, raw: dict[str, Any]) -> Any:
        params = Params(raw)
        purge = params.flag("purge")

        def work(env: Environment) -> Any:
            after = down.down(self._ctx, env, askers(call))
            answer = shapes.status(status.status(self._ctx, after.id))
            if purge:
                down.purge(self._ctx, after)
            return answer

        return await self.access.on_environment(params, work)

    async def _status(self, call: Call, raw: dict[str, Any]) -> Any:
        params = Params(raw)
        is_look = params.flag("drift")

        def work() -> Any:
            env = self.access.find(params)
            if is_look:
                below.look(self._ctx, call, env)
            return shapes.status(status.status_with_holders(self._ctx, env.id, askers(call)))

        return await self.access.in_thread(work)

    async def _glance(self, _call: Call, raw: dict[str, Any]) -> Any:
        params = Params(raw)

        def work() -> Any:
            env = self.access.find(params)
            return shapes.status(status.status(self._ctx, env.id))

        return await self.access.in_thread(work)

    async def _list(self, _call: Call, _raw: dict[str, Any]) -> Any:
        return await self.access.in_thread(
            lambda: listing(self._ctx, list(self._statuses()), self._sizes)
        )

    def _statuses(self) -> Iterator[Status]:
        for env in self._ctx.store.db.environments():
            try:
                yield status.status(self._ctx, env.id)
            except EnvstackError:
                if self._ctx.store.db.knows(env.id):  # else it was purged meanwhile
                    raise

    async def _enter(self, _call: Call, raw: dict[str, Any]) -> Any:
        def work(env: Environment) -> Any:
            return shapes.entrance(enter.enter(self._ctx, env))

        return await self.access.seen(Params(raw), work)

    async def _checkpoint(self, call: Call, raw: dict[str, Any]) -> Any:
        params = Params(raw)
        request = checkpoint.Request(
            mode=params.choice("mode", checkpoint.MODES),
            message=params.text("message", ""),
            tag=params.optional_text("tag"),
            force=params.flag("force"),
            ignore=askers(call),
        )

        sync = params.flag("sync")

        def work(env: Environment) -> Any:
            made = checkpoint.checkpoint(self._ctx, env, request, check_of(call))
            return made, below.known(self._ctx, env)

        made, changed = await self.access.on_environment(params, work)
        if sync:
            made = await self.access.in_thread(lambda: durability.confirm(self._ctx, made))
        return {**shapes.sealed(made), **changed}

    async def _rollback(self, call: Call, raw: dict[str, Any]) -> Any:
        params = Params(raw)
        dry_run = params.flag("dry_run")
        request = rollback.Request(
            mode=params.choice("mode", rollback.MODES),
            rev=params.text("rev", "@"),
            discard=params.flag("discard"),
            force=params.flag("force"),
            ignore=askers(call),
        )

        def work(env: Environment) -> Any:
            if dry_run:
                done = rollback.preview(self._ctx, env, request, check_of(call))
            else:
                done = rollback.rollback(self._ctx, env, request)
            return {**shapes.rolled_back(done), **below.known(self._ctx, env)}

        return await self.access.on_environment(params, work)

    async def _log(self, _call: Call, raw: dict[str, Any]) -> Any:
        def work(env: Environment) -> Any:
            if not env.wanted:
                raise NotUp(f"environment {env.name!r} is not up", "envstack up")
            return shapes.log(history.log(self._ctx, env), env.head)

        return await self.access.seen(Params(raw), work)

    async def _diff(self, call: Call, raw: dict[str, Any]) -> Any:
        return await self._differences(call, raw, changes)

    async def _compare(self, call: Call, raw: dict[str, Any]) -> Any:
        return await self._differences(call, raw, comparison)

    async def _differences(
        self, call: Call, raw: dict[str, Any], shape: Callable[[Iterable[Difference]], T]
    ) -> T:
        params = Params(raw)
        request = compare.Request(
            params.text("a", "@"), params.optional_text("b"), params.paths("paths")
        )

        def work(env: Environment) -> T:
            with closing(compare.compare(self._ctx, env, request, check_of(call))) as found:
                return shape(found)

        return await self.access.seen(params, work)

    async def _put_back(self) -> None:
        """Look after every mount: one may have been taken away.

        Each in a task of its own, so that an environment that is busy holds up itself alone.
        """
        for env in await self.access.in_thread(self._ctx.store.db.environments):
            if env.stack_path not in self._looked_after:
                self._looked_after.add(env.stack_path)
                self._tasks.start_soon(self._look_after, env.stack_path)

    async def _look_after(self, stack_path: bytes) -> None:
        await self.access.exclusively(stack_path, partial(self._restore, stack_path))

    def _restore(self, stack_path: bytes) -> None:
        self._looked_after.discard(stack_path)
        env = self.access.by_stack(stack_path)
        if env is not None and self._ctx.store.db.intent(env.id) is None:
            recover.restore(self._ctx, env)
