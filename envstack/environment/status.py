"""What an environment looks like from outside; looking changes nothing and waits for nobody."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.environment import drift, views
from envstack.environment.context import covered, mount_source, moved, uppers
from envstack.linux.holders import find_holders
from envstack.linux.mountinfo import read_mounts, topmost_at
from envstack.model import EnvState, StackLayer, Status
from envstack.store.records import ON_ANOTHER_CHAIN, Op

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.linux.mountinfo import Mount
    from envstack.model import EnvId, Environment, Holder
    from envstack.store.records import Transition


_EXCHANGES = ON_ANOTHER_CHAIN | {Op.CHECKPOINT}

_GAP = 1.0
"""Seconds: many times as long as an exchange in turn leaves the mount point bare."""


@dataclass(frozen=True, slots=True)
class _Books:
    """What the database tells of an environment: how it stands, and what was begun on it."""

    env: Environment
    intent: Transition | None


def status(ctx: Context, env: EnvId) -> Status:
    """Return the state of the environment, its holders left out. Raises NotFound if it is gone."""
    books, top = _look(ctx, env)
    return _describe(ctx, books, top, ())


def status_with_holders(ctx: Context, env: EnvId, ignore: frozenset[int]) -> Status:
    """Return the state of the environment with those who are inside, `ignore` aside."""
    books, top = _look(ctx, env)
    holders = find_holders(top, ignore=ignore) if top is not None and _is_own(books, top) else ()
    return _describe(ctx, books, top, holders)


def _look(ctx: Context, env: EnvId) -> tuple[_Books, Mount | None]:
    """Return what the database and the mount table tell of one and the same moment.

    An exchange in between would look like somebody else's mount: then look again. So would one
    that has nothing mounted for an instant.
    """
    deadline = time.monotonic() + _GAP
    books = _read(ctx, env)
    while True:
        top = topmost_at(read_mounts(), books.env.mount)
        before, books = books, _read(ctx, env)
        if books != before:
            continue
        if top is not None or not _is_exchanging(books) or time.monotonic() > deadline:
            return books, top
        time.sleep(0.001)


def _is_exchanging(books: _Books) -> bool:
    return books.intent is not None and books.intent.op in _EXCHANGES


def _read(ctx: Context, env: EnvId) -> _Books:
    return _Books(ctx.store.db.environment(env), ctx.store.db.intent(env))


def _describe(
    ctx: Context, books: _Books, top: Mount | None, holders: tuple[Holder, ...]
) -> Status:
    env = books.env
    state, reason, hint = _state(ctx, books, top)
    rows = ctx.store.db.checkpoints(env.id)
    return Status(
        env=env,
        state=state,
        reason=reason,
        hint=hint,
        head=next((row for row in rows if row.id == env.head), None),
        layers=tuple(
            StackLayer(layer.name or "", layer.id, layer.kind)
            for layer in reversed(ctx.store.db.chain(env.base))
        ),
        dirty=_may_be_dirty(ctx, env),
        holders=holders,
        drift=drift.known(ctx, env) if state is EnvState.UP else None,
        cursor=views.end(ctx, env.id),
    )


def _may_be_dirty(ctx: Context, env: Environment) -> bool:
    """Tell, in no time, whether the upper holds anything: False means that all is sealed."""
    return ctx.store.layers.exists(env.upper) and not ctx.store.layers.is_empty(env.upper)


def _state(ctx: Context, books: _Books, top: Mount | None) -> tuple[EnvState, str | None, str]:
    """Return the state, with the reason and what to do about it where that is degraded."""
    env = books.env
    is_going_down = books.intent is not None and books.intent.op is Op.DOWN
    if not env.wanted or (top is None and is_going_down):
        return EnvState.DOWN, None, ""
    if top is not None and _is_own(books, top):
        return EnvState.UP, None, ""
    mounts = read_mounts()
    if error := covered(env, mounts) or moved(env, mounts):
        return EnvState.DEGRADED, error.message, error.hint
    return EnvState.DEGRADED, ctx.faults.get(env.id, "it is not mounted"), "envstack up"


def _is_own(books: _Books, top: Mount) -> bool:
    return top.source in map(mount_source, uppers(books.env, books.intent))
