"""`checkpoint`: seal the upper and put a fresh one on top, or seal a copy of what changed.

A rotation costs nothing, and strands whoever is inside.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envstack.environment.choosing import AUTO, choose, choose_again, left_behind
from envstack.environment.context import now, require_mount, since
from envstack.environment.durability import make_durable
from envstack.environment.history import (
    LIVE,
    ROTATE,
    check_tag,
    count,
    head_chain,
    new_checkpoint,
)
from envstack.environment.live import seal_live
from envstack.environment.mounting import require_layers
from envstack.environment.steps import Step
from envstack.environment.swap import make_spare, new_upper, swap
from envstack.environment.unsealed import is_dirty
from envstack.errors import Held, StateError
from envstack.model import (
    Checkpoint,
    Counts,
    Environment,
    LayerState,
    Sealed,
)
from envstack.overlay.mount import MAX_LOWERS
from envstack.overlay.sameness import go_on
from envstack.store.records import Op, Transition

if TYPE_CHECKING:
    from collections.abc import Callable

    from envstack.environment.context import Context
    from envstack.linux.mountinfo import Mount
    from envstack.model import Chain

MODES = (AUTO, ROTATE, LIVE)
"""What may be asked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for; `ignore` are the processes that ask, which are no holders."""

    message: str = ""
    tag: str | None = None
    force: bool = False
    ignore: frozenset[int] = frozenset()
    mode: str = AUTO


def checkpoint(
    ctx: Context, env: Environment, request: Request, tick: Callable[[], None] = go_on
) -> Sealed:
    """Make the merged tree of `env` a point of history.

    Raises NotUp, Held where somebody is inside who must not be stranded, Damaged where a layer is
    gone, StateError for a tag that is taken or a history that has reached the kernel's depth.
    `tick` is called all the time while anything is copied, and may raise: nothing has happened
    then.
    """
    began = time.perf_counter()
    mount = require_mount(env)
    if request.tag is not None:
        check_tag(ctx, env, request.tag)
    if is_untouched(ctx, env):
        row = _mark(ctx, env, request)
        return Sealed(row, since(began), reason="nothing had changed")
    choice = choose(mount, request, ROTATE, LIVE)
    if choice.mode == ROTATE:
        try:
            stranded = left_behind(mount, request, "checkpoint")
            row = rotate(ctx, env, mount, request.message, request.tag)
        except Held as held:  # by who came when nobody was inside, and writes
            choice = choose_again(request, held, LIVE)
        else:
            return Sealed(row, since(began), stranded, choice.reason)
    live = seal_live(ctx, env, request.message, request.tag, tick)
    return Sealed(live.checkpoint, since(began), reason=choice.reason, unstable=live.unstable)


def rotate(
    ctx: Context, env: Environment, mount: Mount, message: str, tag: str | None
) -> Checkpoint:
    """Seal the upper, empty or not, whoever is inside; return its checkpoint.

    Raises Held for who writes at this moment, Damaged, and StateError for a history that has
    reached the kernel's depth.
    """
    require_layers(ctx, env, env.lowers, f"environment {env.name!r}")
    sealed = sealed_chain(env)
    upper = new_upper(ctx, env)
    row = new_checkpoint(env, sealed, message, tag)
    swap(
        ctx,
        env,
        mount,
        Transition(
            op=Op.CHECKPOINT,
            after=replace(env, upper=upper, lowers=sealed, head=row.id),
            states={env.upper: LayerState.SEALING, upper: LayerState.UPPER},
            checkpoint=row,
            boot=ctx.boot,
        ),
    )
    ctx.defer(lambda: make_durable(ctx))
    ctx.defer(lambda: make_spare(ctx, env))
    ctx.defer(lambda: count(ctx, env, row))
    return row


def is_untouched(ctx: Context, env: Environment) -> bool:
    """Tell, in a time that does not grow with the tree, whether the upper surely holds nothing.

    Nothing that the head does not hold, that is: an empty upper shows what lies below it, which
    after a live checkpoint is not what the head shows.
    """
    is_bare = ctx.store.layers.is_empty(env.upper) and head_chain(ctx, env) == env.lowers
    return is_bare and not is_dirty(ctx, env)


def _mark(ctx: Context, env: Environment, request: Request) -> Checkpoint:
    """Name the chain that is mounted: there is nothing to seal, so no mount is touched."""
    mode = LIVE if request.mode == LIVE else ROTATE
    row = new_checkpoint(env, env.lowers, request.message, request.tag, mode)
    row = replace(row, changes=Counts(), sealed=True)
    ctx.announce(Step.COMMIT)
    ctx.store.db.commit(Transition(Op.CHECKPOINT, replace(env, head=row.id), {}, row), now())
    return replace(row, durable=ctx.store.db.checkpoint(row.id).durable)


def sealed_chain(env: Environment) -> Chain:
    """Return the chain that sealing the upper gives: the upper on what is mounted under it.

    Raises StateError where the kernel could not mount it any more.
    """
    if len(env.lowers) >= MAX_LOWERS:
        raise StateError(
            f"environment {env.name!r} has {MAX_LOWERS} layers, and the kernel mounts no more",
            "roll back to an earlier checkpoint; --discard, as nothing more can be sealed",
        )
    return (env.upper, *env.lowers)
