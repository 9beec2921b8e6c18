"""`checkpoint`: seal the upper and put a fresh one on top."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envstack.environment.context import now, require_mount, since
from envstack.environment.durability import make_durable
from envstack.environment.history import check_tag, count
from envstack.environment.inside import require_strandable
from envstack.environment.mounting import require_layers
from envstack.environment.steps import Step
from envstack.environment.swap import is_dirty, make_spare, new_upper, swap
from envstack.errors import StateError
from envstack.model import (
    Checkpoint,
    CheckpointId,
    Counts,
    Environment,
    LayerState,
    Sealed,
    new_id,
)
from envstack.overlay.mount import MAX_LOWERS
from envstack.store.records import Op, Transition

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.linux.mountinfo import Mount
    from envstack.model import Chain, Holder

ROTATE = "rotate"
"""The `mode` of a checkpoint whose layer is the upper itself."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for; `ignore` are the processes that ask, which are no holders."""

    message: str = ""
    tag: str | None = None
    force: bool = False
    ignore: frozenset[int] = frozenset()


def checkpoint(ctx: Context, env: Environment, request: Request) -> Sealed:
    """Make the merged tree of `env` a point of history.

    Raises NotUp, Held while somebody is inside, Damaged where a layer is gone, StateError for a tag
    that is taken or a history that has reached the kernel's depth.
    """
    began = time.perf_counter()
    mount = require_mount(env)
    if request.tag is not None:
        check_tag(ctx, env, request.tag)
    if is_untouched(ctx, env):
        return Sealed(_mark(ctx, env, request), since(began))
    row, stranded = rotate(ctx, env, mount, request)
    return Sealed(row, since(began), stranded)


def rotate(
    ctx: Context, env: Environment, mount: Mount, request: Request
) -> tuple[Checkpoint, tuple[Holder, ...]]:
    """Seal the upper, empty or not; return its checkpoint, and those who were left behind.

    Raises Held, Damaged, and StateError for a history that has reached the kernel's depth.
    """
    require_layers(ctx, env, env.lowers, f"environment {env.name!r}")
    sealed = sealed_chain(env)
    stranded = require_strandable(mount, request.ignore, "checkpoint", force=request.force)
    upper = new_upper(ctx, env)
    row = new_checkpoint(env, sealed, request.message, request.tag)
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
    return row, stranded


def is_untouched(ctx: Context, env: Environment) -> bool:
    """Tell, in a time that does not grow with the tree, whether the upper surely holds nothing."""
    return ctx.store.layers.is_empty(env.upper) and not is_dirty(ctx, env)


def _mark(ctx: Context, env: Environment, request: Request) -> Checkpoint:
    """Name the chain that is mounted: there is nothing to seal, so no mount is touched."""
    row = replace(
        new_checkpoint(env, env.lowers, request.message, request.tag), changes=Counts(), sealed=True
    )
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


def new_checkpoint(env: Environment, chain: Chain, message: str, tag: str | None) -> Checkpoint:
    """Return a checkpoint of `chain`, on the head."""
    return Checkpoint(
        id=CheckpointId(new_id()),
        env=env.id,
        parent=env.head,
        message=message,
        tag=tag,
        created_at=now(),
        mode=ROTATE,
        chain=chain,
        changes=None,
    )
