"""A live checkpoint: what changed since the head is copied into a layer, and nobody notices.

The upper and the mount stay where they are, and nothing is written into them. The new layer lies on
the chain of the head, not on the mounted one:

    stage           the layer has a row, and an empty tree below `staging/`
    copy-changes    most of what changed is copied while everybody works on
    freeze          who is inside by our commands stands still
    catch-up        what changed meanwhile is copied
    publish         the layer is in its place
    commit          the head is the new checkpoint
    remember        what the upper held is written down, for the next one to compare with

Until the commit there is nothing but a layer that nobody knows, which is deleted at the next start.
What was written down speaks of the chain of one head: killed before it was, the trees themselves
are compared, which takes longer and finds the same.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from envstack.environment.context import now
from envstack.environment.durability import make_durable
from envstack.environment.history import LIVE, head_chain, new_checkpoint, tally
from envstack.environment.mounting import require_layers
from envstack.environment.steps import Step
from envstack.environment.swap import discard, record_sealed
from envstack.environment.trees import layer_trees, upper_tree
from envstack.environment.unsealed import before
from envstack.errors import EnvstackError, StateError
from envstack.feed.doubt import grain_of
from envstack.model import Checkpoint, Counts, Layer, LayerId, LayerKind, LayerState, new_id
from envstack.overlay.diff import diff
from envstack.overlay.merged import LayerTree
from envstack.overlay.mount import MAX_LOWERS
from envstack.overlay.sameness import go_on
from envstack.overlay.sealing import Ground, open_sealing
from envstack.store.records import Op, Transition
from envstack.store.seals import Scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from envstack.environment.context import Context
    from envstack.model import Environment
    from envstack.overlay.delta import Before, Found

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LiveSeal:
    """A live checkpoint, and the paths, relative to the mount, that changed while they were copied.

    What is found there is of more than one moment.
    """

    checkpoint: Checkpoint
    unstable: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class _Filled:
    """A layer below `staging/`: does it hold anything, and what the upper held when it was filled.

    `counts` is what it changes of what the head's chain shows.
    """

    found: Found
    unstable: tuple[bytes, ...]
    counts: Counts | None


def seal_live(
    ctx: Context,
    env: Environment,
    message: str,
    tag: str | None,
    tick: Callable[[], None] = go_on,
) -> LiveSeal:
    """Make the merged tree a point of history without touching it; return its checkpoint.

    Where nothing changed since the head its chain gets another name. Raises Damaged where a layer
    is gone, StateError for a history that has reached the kernel's depth, EnvstackError and OSError
    for want of space, and what `tick` raises: nothing has happened then.
    """
    scene = Scene(env.id, env.upper, env.lowers, head_chain(ctx, env))
    for chain in {scene.lowers, scene.chain}:
        require_layers(ctx, env, chain, f"environment {env.name!r}")
    _require_depth(env, scene)
    ctx.store.db.require_space()
    listing, known = before(ctx, scene)
    ctx.announce(Step.STAGE)
    layer = Layer(LayerId(new_id()), LayerKind.UPPER, LayerState.BUILDING)
    ctx.store.db.add_layer(env.id, layer)
    with ExitStack() as undo:
        undo.callback(_drop, ctx, layer.id)
        filled = _fill(ctx, env, scene, listing, layer.id, tick)
        if filled.counts is None:
            row = new_checkpoint(env, scene.chain, message, tag, LIVE)
            row = _commit(ctx, env, replace(row, changes=Counts()), {})
        else:
            row = new_checkpoint(env, (layer.id, *scene.chain), message, tag, LIVE)
            _publish(ctx, env, layer)
            sealing = {layer.id: LayerState.SEALING}
            row = _commit(ctx, env, replace(row, changes=filled.counts), sealing)
            undo.pop_all()
            ctx.defer(partial(_record, ctx, layer.id))
            ctx.defer(partial(make_durable, ctx))
    _remember(ctx, replace(scene, chain=row.chain), known, filled.found)
    return LiveSeal(row, filled.unstable)


def _require_depth(env: Environment, scene: Scene) -> None:
    """Raise StateError where the kernel could not mount another layer on the head's chain."""
    if len(scene.chain) >= MAX_LOWERS:
        raise StateError(
            f"the history of {env.name!r} has {MAX_LOWERS} layers, and the kernel mounts no more",
            "roll back to an earlier checkpoint",
        )


def _fill(
    ctx: Context,
    env: Environment,
    scene: Scene,
    listing: Before | None,
    layer: LayerId,
    tick: Callable[[], None],
) -> _Filled:
    """Fill a layer below `staging/` with what changed since the head."""
    tree = ctx.store.layers.stage(layer)
    head = layer_trees(ctx, env, scene.chain)
    ground = Ground(
        upper=upper_tree(ctx, env.upper),
        lowers=layer_trees(ctx, env, env.lowers),
        head=head,
        grain=grain_of(ctx.store.home),
        tick=tick,
    )
    with ExitStack() as stack:
        sealing = open_sealing(stack, ground, listing, tree)
        ctx.announce(Step.COPY_CHANGES)
        sealing.copy()
        ctx.announce(Step.FREEZE)
        with ctx.freeze(env.id) as frozen:
            ctx.announce(Step.CATCH_UP)
            sealing.catch_up(frozen=frozen)
            holds_anything = sealing.finish()
    counts = None
    if holds_anything:
        top = LayerTree(tree, marked_by_type=True)
        counts = tally(diff(head, (top, *head), tick))
    return _Filled(sealing.found, tuple(sorted(sealing.unstable)), counts)


def _publish(ctx: Context, env: Environment, layer: Layer) -> None:
    ctx.store.db.require_space()  # what was copied may have taken it
    ctx.announce(Step.PUBLISH)
    record = {"id": layer.id, "kind": layer.kind, "env": env.id, "stack": env.stack_path}
    ctx.store.layers.place(layer.id, record)


def _commit(
    ctx: Context, env: Environment, row: Checkpoint, states: dict[LayerId, LayerState]
) -> Checkpoint:
    after = replace(env, head=row.id)
    ctx.announce(Step.COMMIT)
    ctx.store.db.commit(Transition(Op.CHECKPOINT, after, states, row, ctx.boot), now())
    return ctx.store.db.checkpoint(row.id)


def _drop(ctx: Context, layer: LayerId) -> None:
    """Delete a layer that came to nothing, later if there is no space to write that down."""
    try:
        discard(ctx, layer)
    except (EnvstackError, OSError) as error:
        _log.warning("layer %s, which came to nothing, stays for now: %s", layer, error)
        ctx.defer(partial(discard, ctx, layer))


def _record(ctx: Context, layer: LayerId) -> bool:
    record_sealed(ctx, layer)
    return True


def _remember(ctx: Context, scene: Scene, known: int | None, found: Found) -> None:
    """Write down what the upper held; without that the next one takes longer, and is as right."""
    ctx.announce(Step.REMEMBER)
    directories = {path: listing.pack() for path, listing in found.sheets.items()}
    try:
        if known is None:
            ctx.store.seals.begin(scene, directories)
        else:
            ctx.store.seals.go_on(known, scene.chain, found.gone, directories)
    except EnvstackError as error:
        _log.warning("what the upper of %s held is not written down: %s", scene.env, error)
