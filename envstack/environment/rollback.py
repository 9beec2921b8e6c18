"""`rollback`: go back to an earlier chain, and lose nothing that was not sealed.

By a fresh upper on that chain, which costs nothing and strands whoever is inside, or in place.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envstack.environment import in_place
from envstack.environment.checkpoint import is_untouched, sealed_chain
from envstack.environment.choosing import AUTO, choose, choose_again, left_behind
from envstack.environment.context import now, require_mount, since
from envstack.environment.durability import make_durable, require_whole
from envstack.environment.history import (
    count,
    merged_trees,
    new_checkpoint,
    resolve,
    tally,
)
from envstack.environment.in_place import IN_PLACE
from envstack.environment.mounting import require_layers
from envstack.environment.orphans import orphans
from envstack.environment.steps import Step
from envstack.environment.swap import make_spare, new_upper, swap
from envstack.environment.trees import layer_trees
from envstack.errors import Held
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

MODES = (AUTO, SWAP, IN_PLACE)
"""What may be asked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for; `ignore` are the processes that ask, which are no holders.

    `force`: although somebody is inside, and although the target is damaged.
    """

    rev: str = "@"
    discard: bool = False
    force: bool = False
    ignore: frozenset[int] = frozenset()
    mode: str = AUTO


def preview(
    ctx: Context, env: Environment, request: Request, tick: Callable[[], None]
) -> RolledBack:
    """Return what a rollback would change in the merged tree, and how, and change nothing.

    `tick` is called all the time and may raise.
    """
    choice = choose(require_mount(env), request, SWAP, IN_PLACE)
    target = resolve(ctx, env, request.rev)
    paths = tuple(diff(merged_trees(ctx, env), layer_trees(ctx, env, target.chain), tick))
    counts = tally(paths)
    return RolledBack(target.name, None, choice.mode, counts, paths=paths, reason=choice.reason)


def rollback(ctx: Context, env: Environment, request: Request) -> RolledBack:
    """Make the merged tree that of `request.rev` again.

    What was not sealed is sealed first, as the checkpoint `saved`, unless it is to be discarded.
    Raises NotUp, NotFound, Held for a swap while somebody is inside who must not be stranded,
    Damaged where the target has lost a layer, or part of one and `force` is not given, and what
    `in_place.roll_back` raises.
    """
    began = time.perf_counter()
    mount = require_mount(env)
    target = resolve(ctx, env, request.rev)
    require_layers(ctx, env, target.chain, target.name)
    if target.checkpoint and not request.force:
        require_whole(target.checkpoint)
    if target.chain == env.lowers and is_untouched(ctx, env):
        _point(ctx, env, target)
        mode = SWAP if request.mode == AUTO else request.mode
        reason = "the tree is that already"
        return RolledBack(target.name, None, mode, None, since(began), reason=reason)
    choice = choose(mount, request, SWAP, IN_PLACE)
    if choice.mode == SWAP:
        try:
            done = _swap(ctx, env, mount, target, request)
        except Held as held:  # by who came when nobody was inside, and writes
            choice = choose_again(request, held, IN_PLACE)
    if choice.mode == IN_PLACE:
        done = _in_place(ctx, env, target, request)
    return replace(done, reason=choice.reason, duration_ms=since(began))


def _swap(
    ctx: Context, env: Environment, mount: Mount, target: Revision, request: Request
) -> RolledBack:
    saved = None if request.discard else _candidate(ctx, env, request.rev)
    stranded = left_behind(mount, request, "roll back")
    upper = new_upper(ctx, env)
    after = replace(env, upper=upper, lowers=target.chain, head=target.head)
    kept = exchange(ctx, env, mount, after, saved, {}).checkpoint
    return RolledBack(target.name, kept.id if kept else None, SWAP, None, stranded=stranded)


def _in_place(ctx: Context, env: Environment, target: Revision, request: Request) -> RolledBack:
    done = in_place.roll_back(ctx, env, target, discard=request.discard)
    first, last = (done.saved[0], done.saved[-1]) if done.saved else (None, None)
    return RolledBack(
        to=target.name,
        saved=first,
        mode=IN_PLACE,
        changes=done.changes,
        orphaned=orphans(require_mount(env), done.changed, request.ignore),
        saved_meanwhile=None if last == first else last,
        late=done.late,
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
