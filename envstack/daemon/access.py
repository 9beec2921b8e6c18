"""The environment that a request means, and one caller at a time to work with it.

Owns the locks. Blocking work is done in threads, to its end: a request that is cancelled meanwhile
has happened.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio import CapacityLimiter

from envstack.daemon import stacks
from envstack.daemon.threads import run_to_its_end
from envstack.environment import recover
from envstack.environment.context import uppers
from envstack.errors import EnvstackError, NotUp

if TYPE_CHECKING:
    from collections.abc import Callable

    from envstack.daemon.params import Params
    from envstack.environment.context import Context
    from envstack.model import EnvId, Environment
    from envstack.stackfile import StackFile

_log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 16
"""How many requests work at once; more wait for their turn."""


class Access:
    """The environments of `ctx`; `worked` is told which one somebody has worked with, alone."""

    def __init__(self, ctx: Context, worked: Callable[[EnvId], object]) -> None:
        self.ctx = ctx
        self._worked = worked
        self._threads = CapacityLimiter(_THREADS)
        self._locks: dict[bytes, anyio.Lock] = defaultdict(anyio.Lock)

    async def on_environment(self, params: Params, work: Callable[[Environment], T]) -> T:
        """Run `work` on the environment that is meant, alone with it, its last intent closed."""
        return await self._alone_with(params, self.settled, work)

    async def seen(self, params: Params, work: Callable[[Environment], T]) -> T:
        """Run `work`, which only reads: the last intent is closed, if that can be."""
        return await self._alone_with(params, self._settled_if_possible, work)

    async def exclusively(self, stack_path: bytes, work: Callable[[], T]) -> T:
        """Run `work` while nobody else works with what was made from this stack file."""
        worked_with: set[EnvId] = set()

        def note() -> None:
            env = self.by_stack(stack_path)
            if env is not None:
                worked_with.add(env.id)

        def observed() -> T:
            note()
            try:
                return work()
            finally:
                note()

        async with self._locks[stack_path]:
            try:
                return await self.in_thread(observed)
            finally:
                for env in worked_with:
                    self._worked(env)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run blocking work to its end."""
        return await run_to_its_end(work, self._threads)

    def settled(self, stack_path: bytes) -> Environment | None:
        """Return the environment of a stack file, its last intent closed; None if unknown."""
        env = self.by_stack(stack_path)
        if env is None:
            return None
        recover.settle(self.ctx, env)
        return self.ctx.store.db.environment(env.id)

    def load(self, path: bytes) -> StackFile:
        """Return a stack file as it is now. Raises as `stacks.load` does."""
        return stacks.load(self.ctx, path, self.by_stack(path))

    def by_stack(self, stack_path: bytes) -> Environment | None:
        """Return the environment of a stack file, by its canonical path."""
        rows = self.ctx.store.db.environments()
        return next((env for env in rows if env.stack_path == stack_path), None)

    def find(self, params: Params) -> Environment:
        """Return the environment that `upper` or `stack` names. Raises NotUp for an unknown one."""
        upper = params.optional_text("upper")
        if upper is not None:
            return self._by_upper(upper)
        path = os.path.realpath(params.path("stack"))
        env = self.by_stack(path)
        if env is None:
            raise NotUp(f"nothing was ever brought up from {os.fsdecode(path)}", "envstack up")
        return env

    def _by_upper(self, upper: str) -> Environment:
        for env in self.ctx.store.db.environments():
            if upper in uppers(env, self.ctx.store.db.intent(env.id)):
                return env
        raise NotUp(
            f"no environment has its upper at envstack:{upper}",
            'the directory may be of a tree that was swapped out; try: cd "$PWD"',
        )

    async def _alone_with(
        self,
        params: Params,
        look: Callable[[bytes], Environment | None],
        work: Callable[[Environment], T],
    ) -> T:
        found = await self.in_thread(lambda: self.find(params))

        def alone() -> T:
            env = look(found.stack_path)
            if env is None:
                raise NotUp(f"environment {found.name!r} is gone", "envstack up")
            return work(env)

        return await self.exclusively(found.stack_path, alone)

    def _settled_if_possible(self, stack_path: bytes) -> Environment | None:
        try:
            return self.settled(stack_path)
        except (EnvstackError, OSError) as error:
            _log.warning("what was begun cannot be finished yet: %s", error)
            return self.by_stack(stack_path)
