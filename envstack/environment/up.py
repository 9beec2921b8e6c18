"""`up`: build what is missing, mount, and be done already when nothing is missing."""

from __future__ import annotations

import json
import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from envstack import stackfile
from envstack.environment import drift, fresh, views
from envstack.environment.base import build_base
from envstack.environment.checkpoint import is_untouched, sealed_chain
from envstack.environment.context import now, require_mount, tell_nobody, visible_mount
from envstack.environment.durability import make_durable
from envstack.environment.history import count, new_checkpoint
from envstack.environment.inside import require_nobody
from envstack.environment.keys import outdated
from envstack.environment.mounting import (
    mount,
    prepare_mount_point,
    put_back,
    remove_mount_point,
    require_unused,
    take_off,
)
from envstack.environment.recover import seal_again
from envstack.environment.rollback import exchange
from envstack.environment.steps import Step
from envstack.environment.swap import commit, discard, make_spare, new_upper
from envstack.environment.unsealed import is_dirty
from envstack.errors import EnvstackError, StateError
from envstack.model import (
    Brought,
    EnvId,
    Environment,
    Layer,
    LayerId,
    LayerKind,
    LayerState,
    new_id,
)
from envstack.store.records import Op, Transition

if TYPE_CHECKING:
    from envstack.environment.base import Request
    from envstack.environment.context import Context
    from envstack.model import Checkpoint, CheckpointId
    from envstack.stackfile import StackFile

_log = logging.getLogger(__name__)

_SAVED = "saved before the layers were built anew"


def up(ctx: Context, env: Environment | None, stack: StackFile, request: Request) -> Brought:
    """Bring up the environment of a stack file; `env` is what the store knows of it, if anything.

    An upper that repeats what layers hold is exchanged for a fresh one, if nobody is inside.
    Raises StateError where the stack file says something else than what is up or what the history
    stands on, and what building a layer raises. A rebuild keeps the history, whose checkpoints
    stand on the layers as they were; it raises Held while somebody is inside.
    """
    if env is not None:
        env = _freshened(ctx, env, request)
    is_up = env is not None and env.wanted and (visible_mount(env) or env.id in ctx.kept)
    if env is not None and is_up:
        if request.rebuild is None:
            _require_same(env, stack, "is up")
        if not visible_mount(env):
            put_back(ctx, env)
            ctx.faults.pop(env.id, None)
        if request.rebuild is None:
            return Brought(env, outdated(ctx, env, stack, request.audience.tell))
        return _rebuild(ctx, env, stack, request)
    return _bring(ctx, env, stack, request)


def _freshened(ctx: Context, env: Environment, request: Request) -> Environment:
    """Let a fresh upper be laid where that is due; to do without takes nothing but space."""
    try:
        return fresh.lay(ctx, env, request.ignore)
    except (EnvstackError, OSError) as error:
        _log.warning("%s keeps an upper that repeats its layers: %s", env.name, error)
        return env


def _bring(ctx: Context, known: Environment | None, stack: StackFile, request: Request) -> Brought:
    """Bring up what is down, or was never up."""
    env = _first(stack) if known is None else _renamed(known, stack)
    with ExitStack() as undo:
        undo.callback(_undo, ctx, env.id, known)
        ctx.store.db.require_free(env)
        if known is None and not os.path.lexists(env.mount):
            undo.callback(remove_mount_point, env)
        prepare_mount_point(ctx, env)
        if known is None or _wants_layers(ctx, known, env, stack, request):
            env = _on(build_base(ctx, env, stack, request), env, _name_upper(ctx, env.id))
        saved = _mount(ctx, known, env)
        undo.pop_all()
    views.begin(ctx, env)
    ctx.defer(partial(make_spare, ctx, env))
    env = replace(env, wanted=True)
    _discard_obsolete(ctx, env)
    left = known.head if known is not None and env.head is None else None
    return Brought(env, outdated(ctx, env, stack, tell_nobody), saved, left)


def _wants_layers(
    ctx: Context, known: Environment, env: Environment, stack: StackFile, request: Request
) -> bool:
    """Tell whether the layers are to be built; raises StateError where they must not be.

    Names, `env` and the mount point may change at any time while it is down; its layers only while
    nothing stands on them, or by a rebuild.
    """
    if request.rebuild is not None:
        return True
    is_same = _layers_of(known) == _layers_of(env)
    if is_same and not outdated(ctx, env, stack, request.audience.tell):
        return False
    untouched = not ctx.store.layers.exists(known.upper) or is_untouched(ctx, known)
    if ctx.store.db.checkpoints(known.id) or not untouched:
        if not is_same:
            _require_same(known, stack, "has a history that stands on the layers as they were")
        return False
    return True


def _rebuild(ctx: Context, env: Environment, stack: StackFile, request: Request) -> Brought:
    """Exchange what is mounted for a fresh upper on layers that are built anew."""
    at = require_mount(env)
    renamed = _renamed(env, stack)
    if renamed.mount != env.mount:
        raise StateError("the mount point changed, and cannot move while it is up", "envstack down")
    require_nobody(at, request.ignore, "build the layers anew")
    with ExitStack() as undo:
        undo.callback(_undo, ctx, env.id, env)
        base = build_base(ctx, renamed, stack, request)
        after = _on(base, renamed, new_upper(ctx, env))
        # What is written from now on is kept even so; the commit drops it if there is nothing.
        chain = (env.upper, *env.lowers) if is_untouched(ctx, env) else sealed_chain(env)
        saved = new_checkpoint(env, chain, _SAVED, None)
        require_nobody(at, request.ignore, "build the layers anew")
        done = exchange(ctx, env, at, after, saved, _sealed(after), Op.REBUILD)
        undo.pop_all()
    drift.remounted(ctx, after)
    _discard_obsolete(ctx, after)
    return Brought(after, (), done.checkpoint.id if done.checkpoint else None, env.head)


def _on(base: tuple[LayerId, ...], env: Environment, upper: LayerId) -> Environment:
    """Return an environment as it begins on a base."""
    return replace(env, base=base, lowers=base, upper=upper, head=None)


def _sealed(env: Environment) -> dict[LayerId, LayerState]:
    return dict.fromkeys(env.base, LayerState.SEALED)


def _undo(ctx: Context, env_id: EnvId, known: Environment | None) -> None:
    """Forget what was begun for an `up` that failed: all of a new environment, else the layers.

    Layers that were built stay, and the next `up` finds them, unless the disk is full. Where a new
    environment cannot be forgotten, for want of space, it stays whole, and down. An exchange that
    was not committed is settled by the next request, on the layers that were built for it.
    """
    if known is not None and ctx.store.db.intent(env_id) is not None:
        return
    if known is None and ctx.store.db.knows(env_id):
        ctx.store.db.purge(env_id)
    needed = set() if known is None else {*known.base, known.upper}  # not committed yet, maybe
    needed |= ctx.store.db.history()
    doomed = {LayerState.BUILDING, LayerState.DISCARDED}
    for layer in ctx.store.db.layers(env_id):
        is_spent = layer.key is not None and ctx.store.db.is_short_of_space
        if layer.id not in needed and (layer.state in doomed or is_spent):
            try:
                discard(ctx, layer.id)
            except (EnvstackError, OSError):
                ctx.defer(partial(discard, ctx, layer.id))


def _discard_obsolete(ctx: Context, env: Environment) -> None:
    """Let the layers of stack files go that neither the environment nor its history needs.

    Killed before that, or on a full disk, the next `up` does so, or a later start.
    """
    needed = {*env.base, *env.lowers, *ctx.store.db.history()}
    for layer in ctx.store.db.layers(env.id):
        if layer.key is not None and layer.id not in needed:
            try:  # now, because an `up` takes what is sealed
                ctx.store.db.set_layer_state(layer.id, LayerState.DISCARDED)
            except EnvstackError as error:
                _log.warning("layer %s, which nobody needs, stays for now: %s", layer.id, error)
            else:
                ctx.defer(partial(discard, ctx, layer.id))


def _mount(ctx: Context, known: Environment | None, env: Environment) -> CheckpointId | None:
    """Mount `env`, which is `known` from now on; return what was saved for its upper's sake."""
    after = replace(env, wanted=True)
    replaced = known if known is not None and known.upper != env.upper else None
    if replaced:
        require_unused(ctx, replaced)
    saved = _saved(ctx, replaced) if replaced else None
    states = _sealed(env) | {env.upper: LayerState.UPPER}
    if replaced:
        states[replaced.upper] = LayerState.SEALING if saved else LayerState.DISCARDED
    transition = Transition(Op.UP, after, states, saved, ctx.boot)
    ctx.announce(Step.REGISTER)
    ctx.store.db.begin(transition)
    with ExitStack() as back:
        back.callback(ctx.store.db.abandon, env.id, [])
        mount(ctx, after)
        back.callback(take_off, ctx, after)
        commit(ctx, env, transition)
        back.pop_all()
    if replaced and saved:
        ctx.defer(partial(seal_again, ctx, replaced.upper))
        ctx.defer(partial(make_durable, ctx))
        ctx.defer(partial(count, ctx, after, saved))
    elif replaced:
        ctx.defer(partial(discard, ctx, replaced.upper))
    return saved.id if saved else None


def _saved(ctx: Context, env: Environment) -> Checkpoint | None:
    """Return the checkpoint that keeps what the upper of a known environment holds, if anything."""
    if not ctx.store.layers.exists(env.upper) or not is_dirty(ctx, env):
        return None
    return new_checkpoint(env, sealed_chain(env), _SAVED, None)


def _require_same(env: Environment, stack: StackFile, why: str) -> None:
    written = stack.canonical()
    if env.stack != written:
        words = "; ".join(stackfile.differences(env.stack, written))
        raise StateError(
            f"the stack file of {env.name!r} changed, and it {why}: {words}",
            "put it back as it was, or: envstack up --rebuild (the history stays)",
        )


def _first(stack: StackFile) -> Environment:
    """Return a new environment without layers, which is not in the store as yet."""
    return Environment(
        id=EnvId(new_id()),
        name=stack.name,
        stack_path=stack.path,
        project=stack.project,
        mount=stack.mount,
        stack=stack.canonical(),
        base=(),
        upper=LayerId(""),
        lowers=(),
        head=None,
        wanted=False,
        created_at=now(),
    )


def _renamed(env: Environment, stack: StackFile) -> Environment:
    """Return a known environment as the stack file has it now, on the layers that it has."""
    return replace(env, name=stack.name, mount=stack.mount, stack=stack.canonical())


def _name_upper(ctx: Context, env: EnvId) -> LayerId:
    """Return a new upper that is no more than a row as yet."""
    upper = Layer(LayerId(new_id()), LayerKind.UPPER, LayerState.BUILDING)
    ctx.store.db.add_layer(env, upper)
    return upper.id


def _layers_of(env: Environment) -> object:
    return json.loads(env.stack)["layers"]
