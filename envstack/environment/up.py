"""`up`: build what is missing, mount, and be done already when nothing is missing."""

from __future__ import annotations

import errno
import json
import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from envstack import stackfile
from envstack.environment.checkpoint import is_untouched
from envstack.environment.context import now, visible_mount
from envstack.environment.mounting import is_within, mount, put_back, remove_mount_point, take_off
from envstack.environment.steps import Step
from envstack.environment.swap import commit, discard, make_spare
from envstack.errors import EnvstackError, StateError
from envstack.model import (
    EnvId,
    Environment,
    Layer,
    LayerId,
    LayerKind,
    LayerState,
    new_id,
)
from envstack.sources import directory
from envstack.store.records import Op, Transition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from envstack.environment.context import Context, Progress
    from envstack.model import Chain
    from envstack.stackfile import DirLayer, StackFile


def up(ctx: Context, env: Environment | None, stack: StackFile, progress: Progress) -> Environment:
    """Bring up the environment of a stack file; `env` is what the store knows of it, if anything.

    Returns the environment as it stands. Raises StateError where the stack file says something
    else than what is up or what the history stands on, and what building a layer raises.
    """
    if env is not None and env.wanted and (visible_mount(env) or env.id in ctx.kept):
        _require_same(env, stack, "is up")
        if not visible_mount(env):
            put_back(ctx, env)
            ctx.faults.pop(env.id, None)
        return env
    env_id = EnvId(new_id()) if env is None else env.id
    with ExitStack() as undo:
        undo.callback(_undo, ctx, env_id, env)
        declared = _declared(ctx, env_id, env, stack, progress)
        if env is None and not os.path.lexists(declared.mount):
            undo.callback(remove_mount_point, declared)
        _mount(ctx, declared, _obsolete(env, declared))
        undo.pop_all()
    ctx.defer(partial(make_spare, ctx, declared))
    return replace(declared, wanted=True)


def _declared(
    ctx: Context, env_id: EnvId, env: Environment | None, stack: StackFile, progress: Progress
) -> Environment:
    """Return the environment as the stack file has it, its layers built."""
    if env is None:
        return _declare(ctx, env_id, stack, progress)
    if env.stack != stack.canonical():
        return _redeclare(ctx, env, stack, progress)
    return env


def _undo(ctx: Context, env_id: EnvId, known: Environment | None) -> None:
    """Forget what was built for an `up` that failed: all of a new environment, else the layers.

    Where a new environment cannot be forgotten, for want of space, it stays whole, and down.
    """
    if known is None and ctx.store.db.knows(env_id):
        ctx.store.db.purge(env_id)
    needed = () if known is None else (*known.base, known.upper)  # not committed yet, maybe
    for layer in ctx.store.db.layers(env_id):
        if layer.id not in needed and layer.state in (LayerState.BUILDING, LayerState.DISCARDED):
            try:
                discard(ctx, layer.id)
            except (EnvstackError, OSError):
                ctx.defer(partial(discard, ctx, layer.id))


def _obsolete(known: Environment | None, env: Environment) -> set[LayerId]:
    """Return the layers that stood under the stack file as it was, and are no part of it now."""
    before = () if known is None else (*known.base, known.upper)
    return set(before) - {*env.base, env.upper}


def _mount(ctx: Context, env: Environment, obsolete: set[LayerId]) -> None:
    _require_free(ctx, env)
    after = replace(env, wanted=True)
    states = dict.fromkeys(env.base, LayerState.SEALED) | {env.upper: LayerState.UPPER}
    states |= dict.fromkeys(obsolete, LayerState.DISCARDED)
    transition = Transition(Op.UP, after, states)
    ctx.announce(Step.REGISTER)
    ctx.store.db.begin(transition)
    with ExitStack() as back:
        back.callback(ctx.store.db.abandon, env.id, [])
        mount(ctx, after)
        back.callback(take_off, ctx, after)
        commit(ctx, env, transition)
        back.pop_all()
    for layer in obsolete:
        ctx.defer(partial(discard, ctx, layer))


def _require_free(ctx: Context, env: Environment) -> None:
    for other in ctx.store.db.environments():
        if other.mount == env.mount and other.id != env.id:
            raise StateError(
                f"the mount point {os.fsdecode(env.mount)} is that of environment {other.name!r}"
                f" ({os.fsdecode(other.stack_path)})",
                "choose another `mount` in one of the two stack files",
            )


def _require_same(env: Environment, stack: StackFile, why: str) -> None:
    written = stack.canonical()
    if env.stack != written:
        words = "; ".join(stackfile.differences(env.stack, written))
        raise StateError(
            f"the stack file of {env.name!r} changed, and it {why}: {words}",
            "put the stack file back as it was; only without its history can it begin anew",
        )


def _declare(ctx: Context, env_id: EnvId, stack: StackFile, progress: Progress) -> Environment:
    """Return a new environment, its layers built and its upper named, not in the store as yet."""
    base = _build_base(ctx, env_id, stack, progress)
    return Environment(
        id=env_id,
        name=stack.name,
        stack_path=stack.path,
        project=stack.project,
        mount=stack.mount,
        stack=stack.canonical(),
        base=base,
        upper=_name_upper(ctx, env_id),
        lowers=base,
        head=None,
        wanted=False,
        created_at=now(),
    )


def _name_upper(ctx: Context, env: EnvId) -> LayerId:
    """Return a new upper that is no more than a row as yet."""
    upper = Layer(LayerId(new_id()), LayerKind.UPPER, LayerState.BUILDING)
    ctx.store.db.add_layer(env, upper)
    return upper.id


def _redeclare(ctx: Context, env: Environment, stack: StackFile, progress: Progress) -> Environment:
    """Return a known environment under a changed stack file.

    Names, `env` and the mount point may change at any time while it is down; its layers only while
    nothing stands on them.
    """
    renamed = replace(env, name=stack.name, mount=stack.mount, stack=stack.canonical())
    if _layers_of(env) == _layers_of(renamed):
        return renamed
    untouched = not ctx.store.layers.exists(env.upper) or is_untouched(ctx, env)
    if ctx.store.db.checkpoints(env.id) or not untouched:
        _require_same(env, stack, "has a history that stands on the layers as they were")
    base = _build_base(ctx, env.id, stack, progress)
    # A fresh one, because the root of the old one is like that of the old base.
    return replace(renamed, base=base, lowers=base, upper=_name_upper(ctx, env.id))


def _layers_of(env: Environment) -> object:
    return json.loads(env.stack)["layers"]


def _build_base(ctx: Context, env: EnvId, stack: StackFile, progress: Progress) -> Chain:
    """Build the layers of the stack and return their chain."""
    _check_directories(ctx, stack)
    ctx.announce(Step.STAGE)
    built: list[LayerId] = []
    for number, entry in enumerate(stack.layers, 1):
        kind = LayerKind.DIR if entry.by_reference else LayerKind.COPY
        layer = Layer(LayerId(new_id()), kind, LayerState.BUILDING, entry.name, entry.dir)
        ctx.store.db.add_layer(env, layer)
        if kind is LayerKind.COPY:
            below = (*ctx.store.trees(tuple(built)), stack.project)
            which = f"layer {number} of {len(stack.layers)}: {entry.name}"
            _copy(ctx, layer.id, entry, below, partial(_tell, progress, which))
        built.insert(0, layer.id)
    return tuple(built)


def _tell(progress: Progress, which: str, count: int) -> None:
    progress(f"{which}, {count:,} entries copied")


def _copy(
    ctx: Context,
    layer: LayerId,
    entry: DirLayer,
    below: Sequence[bytes],
    tick: Callable[[int], None],
) -> None:
    ctx.announce(Step.COPY)
    tree = ctx.store.layers.stage(layer)
    try:
        directory.build(entry, tree, below, tick)
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else os.fsdecode(entry.dir)
        raise EnvstackError(
            f"layer {entry.name!r} cannot be copied: {error.strerror}: {where}",
            "free some space for the store" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "",
        ) from error
    ctx.announce(Step.PUBLISH)
    record = {"id": layer, "kind": LayerKind.COPY, "name": entry.name, "source": entry.dir}
    ctx.store.layers.publish(layer, record)


def _check_directories(ctx: Context, stack: StackFile) -> None:
    """Raise StackFileError, with position, for a directory that cannot be a layer."""
    home = os.path.realpath(ctx.store.home)
    for index, layer in enumerate(stack.layers):
        if is_within(home, layer.dir) or is_within(layer.dir, home):
            raise stack.fault(
                index,
                "dir",
                f"the store ({os.fsdecode(home)}) and this directory lie in one another",
            )
