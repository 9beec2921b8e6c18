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
from envstack.environment.mounting import is_within, mount, put_back, remove_mount_point
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
    known = env
    with ExitStack() as undo:
        if env is None:
            env = _declare(ctx, stack, progress, undo)
        elif env.stack != stack.canonical():
            env = _redeclare(ctx, env, stack, progress, undo)
        _mount(ctx, env, _obsolete(known, env))
        undo.pop_all()
    final = env
    ctx.defer(lambda: make_spare(ctx, final))
    return replace(env, wanted=True)


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
    try:
        mount(ctx, after)
    except BaseException:
        ctx.store.db.abandon(env.id, [])
        raise
    commit(ctx, env, transition)
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
            "put the stack file back, or begin anew: envstack down --purge; envstack up",
        )


def _declare(ctx: Context, stack: StackFile, progress: Progress, undo: ExitStack) -> Environment:
    """Return a new environment, its layers built and its upper named, not in the store as yet."""
    env_id = EnvId(new_id())
    undo.callback(ctx.store.db.purge, env_id)
    base = _build_base(ctx, env_id, stack, progress, undo)
    upper = _name_upper(ctx, env_id, undo)
    env = Environment(
        id=env_id,
        name=stack.name,
        stack_path=stack.path,
        project=stack.project,
        mount=stack.mount,
        stack=stack.canonical(),
        base=base,
        upper=upper,
        lowers=base,
        head=None,
        wanted=False,
        created_at=now(),
    )
    if not os.path.lexists(env.mount):
        undo.callback(remove_mount_point, env)
    return env


def _name_upper(ctx: Context, env: EnvId, undo: ExitStack) -> LayerId:
    """Return a new upper that is no more than a row as yet."""
    upper = Layer(LayerId(new_id()), LayerKind.UPPER, LayerState.BUILDING)
    ctx.store.db.add_layer(env, upper)
    undo.callback(discard, ctx, upper.id)
    return upper.id


def _redeclare(
    ctx: Context, env: Environment, stack: StackFile, progress: Progress, undo: ExitStack
) -> Environment:
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
    base = _build_base(ctx, env.id, stack, progress, undo)
    # A fresh one, because the root of the old one is like that of the old base.
    return replace(renamed, base=base, lowers=base, upper=_name_upper(ctx, env.id, undo))


def _layers_of(env: Environment) -> object:
    return json.loads(env.stack)["layers"]


def _build_base(
    ctx: Context, env: EnvId, stack: StackFile, progress: Progress, undo: ExitStack
) -> Chain:
    """Build the layers of the stack and return their chain; what was built is undone on failure."""
    _check_directories(ctx, stack)
    ctx.announce(Step.STAGE)
    built: list[LayerId] = []
    for number, entry in enumerate(stack.layers, 1):
        kind = LayerKind.DIR if entry.by_reference else LayerKind.COPY
        layer = Layer(LayerId(new_id()), kind, LayerState.BUILDING, entry.name, entry.dir)
        ctx.store.db.add_layer(env, layer)
        undo.callback(discard, ctx, layer.id)
        if kind is LayerKind.COPY:
            _copy(ctx, layer.id, entry, f"layer {number} of {len(stack.layers)}", progress)
        built.append(layer.id)
    return tuple(reversed(built))


def _copy(ctx: Context, layer: LayerId, entry: DirLayer, which: str, progress: Progress) -> None:
    ctx.announce(Step.COPY)
    tree = ctx.store.layers.stage(layer)
    try:
        directory.build(
            entry, tree, lambda count: progress(f"{which} ({entry.name}): {count:,} entries copied")
        )
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
