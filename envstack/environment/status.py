"""What an environment looks like from outside; looking changes nothing and waits for nobody."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.environment.context import mount_source
from envstack.linux.holders import find_holders
from envstack.linux.mountinfo import read_mounts, topmost_at
from envstack.model import EnvState, StackLayer, Status

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.linux.mountinfo import Mount
    from envstack.model import Environment, Holder


def status(ctx: Context, env: Environment) -> Status:
    """Return the state of the environment, its holders left out."""
    return _describe(ctx, env, topmost_at(read_mounts(), env.mount), ())


def status_with_holders(ctx: Context, env: Environment, ignore: frozenset[int]) -> Status:
    """Return the state of the environment with those who are inside, `ignore` aside."""
    top = topmost_at(read_mounts(), env.mount)
    is_ours = top is not None and top.source == mount_source(env.upper)
    holders = find_holders(top, ignore=ignore) if top is not None and is_ours else ()
    return _describe(ctx, env, top, holders)


def _describe(
    ctx: Context, env: Environment, top: Mount | None, holders: tuple[Holder, ...]
) -> Status:
    state, reason = _state(ctx, env, top)
    rows = ctx.store.db.checkpoints(env.id)
    return Status(
        env=env,
        state=state,
        reason=reason,
        head=next((row for row in rows if row.id == env.head), None),
        layers=tuple(
            StackLayer(layer.name or "", layer.id, layer.kind)
            for layer in reversed(ctx.store.db.chain(env.base))
        ),
        holders=holders,
    )


def _state(ctx: Context, env: Environment, top: Mount | None) -> tuple[EnvState, str | None]:
    if not env.wanted:
        return EnvState.DOWN, None
    if top is None:
        return EnvState.DEGRADED, ctx.faults.get(env.id, "it is not mounted")
    if top.source in _own_sources(ctx, env):
        return EnvState.UP, None
    return EnvState.DEGRADED, f"covered by another mount ({os.fsdecode(top.source)})"


def _own_sources(ctx: Context, env: Environment) -> set[bytes]:
    """Return the names that its mount may have: between two steps it is the next one's already."""
    intent = ctx.store.db.intent(env.id)
    uppers = {env.upper, intent.after.upper} if intent else {env.upper}
    return {mount_source(upper) for upper in uppers}
