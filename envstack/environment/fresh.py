"""A fresh upper over the chain of the head, where the old one repeats what layers hold.

After a live checkpoint, and after a rollback in place, an upper holds once more what the chain of
the head shows. Once nobody is inside it is exchanged for an empty one on that chain, and deleted:
the space comes back, and the merged tree is what it was.

Only where the merged tree is the head's to the byte. That is compared while everybody may write;
what is written meanwhile is found out when nobody can write any more: the upper must stand as it
stood before the comparison. Then nothing has happened, and somebody met EROFS for as long as it
takes to list the upper. So a large one waits until it is mounted the next time, or is down.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from envstack.environment.context import mount_source, now, visible_mount
from envstack.environment.history import head_chain, merged_trees
from envstack.environment.inside import is_anybody_inside
from envstack.environment.mounting import require_layers
from envstack.environment.steps import Step
from envstack.environment.swap import (
    discard,
    dress_root,
    make_spare,
    new_upper,
    prepare_upper,
    swap,
    take_back,
)
from envstack.environment.trees import layer_trees
from envstack.environment.unsealed import is_dirty
from envstack.errors import Held, StateError
from envstack.feed.doubt import grain_of
from envstack.linux.mountinfo import read_mounts
from envstack.model import LayerState
from envstack.overlay import mount as overlay
from envstack.overlay.diff import differs
from envstack.overlay.listed import is_young
from envstack.overlay.standstill import Stand, stand_of
from envstack.store.records import Op, Transition

if TYPE_CHECKING:
    from collections.abc import Callable

    from envstack.environment.context import Context
    from envstack.linux.mountinfo import Mount
    from envstack.model import Chain, Environment

_log = logging.getLogger(__name__)

_MOST = 20_000
"""Entries of an upper that is exchanged while it is mounted: they are listed under the lock."""


def is_due(ctx: Context, env: Environment) -> bool:
    """Tell whether the upper stands on another chain than that of the head."""
    return head_chain(ctx, env) != env.lowers


def lay(ctx: Context, env: Environment, ignore: frozenset[int]) -> Environment:
    """Lay a fresh upper if that is due and can be done, and return the environment as it is then.

    Not while anybody is inside but for `ignore`, while anything is not sealed, or while the head
    would not outlive a power cut. Raises EnvstackError and OSError where it was begun and failed.
    """
    if not is_due(ctx, env) or not _is_head_safe(ctx, env):
        return env
    mount = visible_mount(env)
    if mount is None:
        return _lay_below(ctx, env) if _is_down(ctx, env) else env
    if is_anybody_inside(mount, ignore):
        return env
    stood = _stood_alike(ctx, env)
    if stood is None or stood.entries > _MOST:
        return env

    def vet() -> None:
        if stand_of(ctx.store.layers.fs(env.upper)) != stood:
            raise StateError("something was written into the merged tree at this moment")

    try:
        return _exchange(ctx, env, mount, vet)
    except (Held, StateError) as error:
        _log.debug("%s keeps its upper for now: %s", env.name, error)
        return env


def _is_head_safe(ctx: Context, env: Environment) -> bool:
    """Tell whether what the upper repeats is whole, and written to the disk."""
    if env.head is None:
        return True
    head = ctx.store.db.checkpoint(env.head)
    return head.sealed and head.durable and head.damage is None


def _is_down(ctx: Context, env: Environment) -> bool:
    """Tell whether surely nothing is mounted, nor anybody left on a mount that was taken away."""
    source = mount_source(env.upper)
    upper = ctx.store.layers.fs(env.upper)
    return (
        not env.wanted
        and all(mount.source != source for mount in read_mounts())
        and ctx.store.layers.exists(env.upper)
        and not overlay.in_use(upper)
    )


def _stood_alike(ctx: Context, env: Environment) -> Stand | None:
    """Return how the upper stood when the merged tree was what the head shows; None if it is not.

    Nor where it was written to so lately that a later change may have the same time stamp.
    """
    stood = stand_of(ctx.store.layers.fs(env.upper))
    if is_young(stood.changed_ns, grain_of(ctx.store.home)) or is_dirty(ctx, env):
        return None
    # To the byte, before the only other copy is deleted.
    head = layer_trees(ctx, env, head_chain(ctx, env))
    return None if differs(head, merged_trees(ctx, env)) else stood


def _exchange(ctx: Context, env: Environment, mount: Mount, vet: Callable[[], None]) -> Environment:
    transition = _transition(ctx, env)
    swap(ctx, env, mount, transition, vet)
    ctx.defer(partial(make_spare, ctx, transition.after))
    _log.info("%s has a fresh upper: the old one repeated what layers hold", env.name)
    return transition.after


def _lay_below(ctx: Context, env: Environment) -> Environment:
    """Do the same where nothing is mounted: nobody can write meanwhile."""
    if _stood_alike(ctx, env) is None:
        return env
    transition = _transition(ctx, env)
    after = transition.after
    ctx.announce(Step.REGISTER)
    ctx.store.db.begin(transition)
    with ExitStack() as undo:
        undo.callback(take_back, ctx, env, after.upper)
        ctx.announce(Step.PREPARE)
        prepare_upper(ctx, env, after.upper)
        dress_root(ctx, after, ctx.store.layers.fs(after.upper))
        ctx.announce(Step.COMMIT)
        ctx.store.db.commit(transition, now())
        undo.pop_all()
    ctx.defer(partial(discard, ctx, env.upper))
    return after


def _transition(ctx: Context, env: Environment) -> Transition:
    chain: Chain = head_chain(ctx, env)
    require_layers(ctx, env, chain, f"environment {env.name!r}")
    upper = new_upper(ctx, env)
    states = {env.upper: LayerState.DISCARDED, upper: LayerState.UPPER}
    after = replace(env, upper=upper, lowers=chain)
    return Transition(Op.FRESH, after, states, boot=ctx.boot)
