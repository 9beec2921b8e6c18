"""`down`: unmount and keep everything; `purge`: delete the environment with its history."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from envstack.environment.context import find_mount, mount_source, now
from envstack.environment.inside import require_nobody
from envstack.environment.mounting import remove_mount_point
from envstack.environment.steps import Step
from envstack.environment.swap import discard, require_top
from envstack.errors import Held, StateError
from envstack.linux.mountinfo import read_mounts
from envstack.linux.syscalls import mount_id
from envstack.overlay import mount as overlay
from envstack.store.records import Op, Transition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envstack.environment.context import Context
    from envstack.linux.mountinfo import Mount
    from envstack.model import Environment, LayerId


def down(ctx: Context, env: Environment, ignore: frozenset[int]) -> Environment:
    """Unmount the environment and return it as it stands; already down is no error.

    It is taken off where a project that was moved took it. Raises Held, with the mount as it was,
    while somebody is inside, and StateError where it is out of reach under another mount.
    """
    mount = find_mount(env)
    if mount is None and not env.wanted:
        ctx.groups.clear(env.id)
        return env
    after = replace(env, wanted=False)
    if mount is not None:
        require_nobody(mount, ignore, "take down")
    ctx.announce(Step.REGISTER)
    transition = Transition(Op.DOWN, after)
    ctx.store.db.begin(transition)
    if mount:
        _unmount(ctx, env, mount)
    ctx.release(env.id)
    ctx.announce(Step.COMMIT)
    ctx.store.db.commit(transition, now())
    ctx.groups.clear(env.id)
    return after


def _unmount(ctx: Context, env: Environment, mount: Mount) -> None:
    ctx.announce(Step.UNMOUNT)
    with ExitStack() as undo:
        undo.callback(ctx.store.db.abandon, env.id, [])
        require_top(mount.point, mount_id(mount.point), mount.id)
        try:
            overlay.unmount(mount.point)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise Held(
                "cannot take down: somebody came inside at this moment", "try again"
            ) from error
        undo.pop_all()


def purge(ctx: Context, env: Environment) -> None:
    """Delete an environment that is down: its history, its layers, its mount point.

    Raises StateError, with nothing deleted, while anything of its layers is mounted.
    """
    layers = [layer.id for layer in ctx.store.db.layers(env.id)]
    _require_unmounted(env, layers)
    ctx.announce(Step.FORGET)
    ctx.store.db.purge(env.id)
    ctx.store.journal.forget(env.id)
    ctx.store.seals.forget(env.id)
    for layer in layers:
        discard(ctx, layer)
    remove_mount_point(env)


def _require_unmounted(env: Environment, layers: Iterable[LayerId]) -> None:
    sources = set(map(mount_source, layers))
    for mount in read_mounts():
        if mount.source in sources:
            shown = os.fsdecode(mount.point)
            raise StateError(
                f"cannot delete {env.name!r}: of its tree something is still mounted at {shown}",
                f"umount {shown}",
            )
