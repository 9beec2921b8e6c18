"""`down`: unmount and keep everything; `purge`: delete the environment with its history."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from envstack.environment.context import covered, mount_source, now, visible_mount
from envstack.environment.inside import require_nobody
from envstack.environment.mounting import remove_mount_point
from envstack.environment.steps import Step
from envstack.environment.swap import discard, require_top
from envstack.errors import Held
from envstack.linux.mountinfo import read_mounts, stack_at
from envstack.linux.syscalls import mount_id
from envstack.overlay import mount as overlay
from envstack.store.records import Op, Transition

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.linux.mountinfo import Mount
    from envstack.model import Environment


def down(ctx: Context, env: Environment, ignore: frozenset[int]) -> Environment:
    """Unmount the environment and return it as it stands; already down is no error.

    Raises Held, with the mount as it was, while somebody is inside.
    """
    if not env.wanted:
        return env
    after = replace(env, wanted=False)
    mount = visible_mount(env)
    if mount is None:
        _require_gone(env)
    else:
        require_nobody(mount, ignore, "take down")
    ctx.announce(Step.REGISTER)
    transition = Transition(Op.DOWN, after)
    ctx.store.db.begin(transition)
    if mount:
        _unmount(ctx, env, mount)
    ctx.release(env.id)
    ctx.announce(Step.COMMIT)
    ctx.store.db.commit(transition, now())
    return after


def _require_gone(env: Environment) -> None:
    """Raise StateError if the mount is there, out of reach under another one."""
    sources = [mount.source for mount in stack_at(read_mounts(), env.mount)]
    if mount_source(env.upper) in sources:
        raise covered(env, sources[-1])


def _unmount(ctx: Context, env: Environment, mount: Mount) -> None:
    ctx.announce(Step.UNMOUNT)
    with ExitStack() as undo:
        undo.callback(ctx.store.db.abandon, env.id, [])
        require_top(env, mount_id(env.mount), mount.id)
        try:
            overlay.unmount(env.mount)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise Held(
                "cannot take down: somebody came inside at this moment", "try again"
            ) from error
        undo.pop_all()


def purge(ctx: Context, env: Environment) -> None:
    """Delete an environment that is down: its history, its layers, its mount point."""
    layers = [layer.id for layer in ctx.store.db.layers(env.id)]
    ctx.announce(Step.FORGET)
    ctx.store.db.purge(env.id)
    for layer in layers:
        discard(ctx, layer)
    remove_mount_point(env)
