"""`rollback`: put an earlier chain under a fresh upper, and lose nothing that was not sealed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envstack.environment.checkpoint import (
    is_untouched,
    sealed_chain,
)
from envstack.environment.context import now, require_mount, since
from envstack.environment.durability import make_durable, require_whole
from envstack.environment.history import (
    count,
    merged_trees,
    new_checkpoint,
    resolve,
    tally,
)
from envstack.environment.inside import require_strandable
from envstack.environment.mounting import require_layers
from envstack.environment.steps import Step
from envstack.environment.swap import make_spare, new_upper, swap
from envstack.environment.trees import layer_trees
from envstack.model import LayerState, RolledBack
from envstack.overlay.diff import diff
from envstack.store.records import Op, Transition

if TYPE_CHECKING:
    from collections.abc import Callable

    from envstack.environment.context import Context
    from envstack.environment.history import Revision
    from envstack.linux.mountinfo import Mount
    from envstack.model import Checkpoint, Environment, LayerId

SWAP = "swap"
"""The `mode` of a rollback that exchanges the mounted overlay."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for; `ignore` are the processes that ask, which are no holders.

    `force`: although somebody is inside, and although the target is damaged.
    """

    rev: str = "@"
    discard: bool = False
    force: bool = False
    ignore: frozenset[int] = frozenset()


def preview(ctx: Context, env: Environment, rev: str, tick: Callable[[], None]) -> RolledBack:
    """Return what a rollback to `rev` would change in the merged tree, and change nothing.

    `tick` is called all the time and may raise.
    """
    require_mount(env)
    target = resolve(ctx, env, rev)
    paths = tuple(diff(merged_trees(ctx, env), layer_trees(ctx, env, target.chain), tick))
    return RolledBack(to=target.name, saved=None, mode=SWAP, changes=tally(paths), paths=paths)


def rollback(ctx: Context, env: Environment, request: Request) -> RolledBack:
    """Make the merged tree that of `request.rev` again.

    What was not sealed is sealed first, as the checkpoint `saved`, unless it is to be discarded.
    Raises NotUp, NotFound, Held while somebody is inside, Damaged where the target has lost a
    layer, or part of one and `force` is not given.
    """
    began = time.perf_counter()
    mount = require_mount(env)
    target = resolve(ctx, env, request.rev)
    require_layers(ctx, env, target.chain, target.name)
    if target.checkpoint and not request.force:
        require_whole(target.checkpoint)
    if target.chain == env.lowers and is_untouched(ctx, env):
        _point(ctx, env, target)
        return RolledBack(target.name, None, SWAP, None, since(began))
    saved = None if request.discard else _candidate(ctx, env, request.rev)
    stranded = require_strandable(mount, request.ignore, "roll back", force=request.force)
    upper = new_upper(ctx, env)
    after = replace(env, upper=upper, lowers=target.chain, head=target.head)
    kept = exchange(ctx, env, mount, after, saved, {}).checkpoint
    return RolledBack(
        target.name, kept.id if kept else None, SWAP, None, since(began), stranded=stranded
    )


def exchange(
    ctx: Context,
    env: Environment,
    mount: Mount,
    after: Environment,
    saved: Checkpoint | None,
    states: dict[LayerId, LayerState],
    op: Op = Op.ROLLBACK,
) -> Transition:
    """Put a fresh upper on another chain in place of `mount`, and return what was committed.

    `saved` is to keep what was not sealed; it is dropped if there turns out to be nothing. `states`
    says what becomes of layers other than the two uppers. Raises as `swap` does.
    """
    old = LayerState.SEALING if saved else LayerState.DISCARDED
    states = {**states, env.upper: old, after.upper: LayerState.UPPER}
    done = swap(ctx, env, mount, Transition(op, after, states, saved, ctx.boot))
    ctx.defer(lambda: make_spare(ctx, after))
    kept = done.checkpoint
    if kept:
        ctx.defer(lambda: make_durable(ctx))
        ctx.defer(lambda: count(ctx, after, kept))
    return done


def _candidate(ctx: Context, env: Environment, rev: str) -> Checkpoint:
    """Return the checkpoint that keeps unsealed changes; the commit drops it if there are none.

    Raises StateError where there are some and the kernel could not mount them any more. What is
    written from now on is kept even so.
    """
    chain = (env.upper, *env.lowers) if is_untouched(ctx, env) else sealed_chain(env)
    return new_checkpoint(env, chain, f"saved before rollback to {rev}", None)


def _point(ctx: Context, env: Environment, target: Revision) -> None:
    """Move the head alone: the merged tree is the target's already."""
    ctx.announce(Step.COMMIT)
    ctx.store.db.commit(Transition(Op.ROLLBACK, replace(env, head=target.head)), now())
