"""Exchange the mounted overlay for another, and seal the upper that was on it.

The order is what keeps every promise, so it stands in one place, `swap`:

    register    the intent is durable, it names the new upper and all that will be committed
    prepare     the new upper exists
    build       the new overlay exists, attached nowhere, with what is mounted inside (`carry`)
    lock        nobody writes through the old mount any more; the new root gets its metadata
    beneath     the new overlay waits under the old mount
    detach      the new overlay shows; at no instant was the mount point empty
    commit      the database tells the new story

How the mounts change places is one of two ways (`exchange`); the other one, for kernels without
mounting beneath, has `detach` and then `attach` instead, with a short gap between them.

Up to `beneath` everything can be taken back and nothing has happened. The lock comes before
`beneath`, because umount(2) follows a descriptor up to the topmost mount that stands on it: an
overlay that lies beneath another cannot be taken off again (measured on Linux 6.18), so nothing is
put there before it is certain to stay.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from envstack.environment import carry, views
from envstack.environment.context import Pair, mount_source, now
from envstack.environment.refusal import refused_layer
from envstack.environment.steps import Step
from envstack.environment.unsealed import is_dirty
from envstack.errors import EnvstackError, Held, StateError, Unsupported
from envstack.linux.syscalls import mount_id
from envstack.model import Layer, LayerId, LayerKind, LayerState, new_id
from envstack.overlay import mount as overlay
from envstack.overlay.root import copy_root, mark_dressed
from envstack.store.records import ON_ANOTHER_CHAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from envstack.environment.context import Context
    from envstack.linux.mountinfo import Mount
    from envstack.model import Environment
    from envstack.store.records import Transition

_log = logging.getLogger(__name__)

_WORKDIR_ROOM = 1 << 20
"""Bytes: with less, it is want of space that made the kernel mount an overlay read-only."""


def agree() -> None:
    """Let an exchange take place."""


def swap(
    ctx: Context,
    env: Environment,
    mount: Mount,
    transition: Transition,
    vet: Callable[[], None] = agree,
) -> Transition:
    """Replace `mount`, that of `env`, by that of `transition.after`; return what was committed.

    Nobody may be inside who must not be stranded. Raises Held if somebody goes on writing, and
    StateError if something was mounted over it meanwhile, with nothing changed; and so what `vet`
    raises, which is called when nobody can write through the old mount any more.
    """
    ctx.announce(Step.REGISTER)
    ctx.store.db.begin(transition)
    with ExitStack() as undo:
        undo.callback(take_back, ctx, env, transition.after.upper)
        pair = _make_ready(ctx, env, mount, transition, undo)
        vet()
        ctx.mounts.exchange.begin(ctx, env, pair)
        undo.pop_all()
    with ExitStack() as unfinished:  # what fails from here on is settled by the next request
        unfinished.callback(os.close, pair.old)
        before = _uncover(ctx, env, pair)
        held = (pair.old,) if before is None else (pair.old, before)
        if before is not None:
            unfinished.callback(os.close, before)
        done = commit(ctx, env, transition)
        unfinished.pop_all()
    ctx.defer(lambda: seal(ctx, env.upper, held))
    return done


def _uncover(ctx: Context, env: Environment, pair: Pair) -> int | None:
    """Let the new mount show, and keep it; return the clone that was kept until now.

    Where that fails nothing is kept: put back, the old superblock would take writes again.
    """
    try:
        ctx.mounts.exchange.finish(ctx, env, pair)
        return ctx.keep(env.id, overlay.clone(pair.new))
    except BaseException:
        ctx.release(env.id)
        raise
    finally:
        os.close(pair.new)


def require_top(point: bytes, top: int, expected: int) -> None:
    """Raise StateError for a cover: umount(2) would take off that one, with what is in it."""
    if top != expected:
        shown = os.fsdecode(point)
        raise StateError(f"{shown} was covered by another mount", f"umount {shown}; try again")


def take_back(ctx: Context, env: Environment, upper: LayerId) -> None:
    """Give up an exchange that has not happened, with the upper that was made for it."""
    ctx.store.db.abandon(env.id, [upper])
    ctx.defer(lambda: discard(ctx, upper))


def _make_ready(
    ctx: Context, env: Environment, mount: Mount, transition: Transition, undo: ExitStack
) -> Pair:
    """Return the old mount, locked, and the new one, which is built and dressed."""
    after = transition.after
    ctx.announce(Step.PREPARE)
    prepare_upper(ctx, env, after.upper)
    ctx.announce(Step.BUILD)
    new = build(ctx, after)
    undo.callback(os.close, new)
    old = overlay.open_mount(env.mount)
    undo.callback(os.close, old)
    require_top(env.mount, mount_id(b"", dir_fd=old), mount.id)
    carried = ctx.mounts.exchange.carry(mount, new, transition.op)
    ctx.announce(Step.LOCK)
    _lock(old, transition)
    undo.callback(overlay.unlock_mount, old)
    carry.require_carried(mount, carried, transition.op)
    # Now that nobody can change the root that is to be like. Through the overlay, because it
    # remembers what its upper's root was like when it was built.
    dress_root(ctx, after, b"/proc/self/fd/%d" % new)
    return Pair(old, new)


def _lock(mount: int, transition: Transition) -> None:
    try:
        overlay.lock_mount(mount)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise Held(
            f"cannot {transition.op}: somebody goes on writing in the merged tree",
            "try again when it is quieter, or end who writes",
        ) from error


def commit(ctx: Context, env: Environment, transition: Transition) -> Transition:
    """Write the transition down as done, and return it as it was done.

    What puts a fresh upper on another chain brings a candidate for the checkpoint `saved`; whether
    there was anything to save is looked up now, when nobody can write into the old upper any more.
    """
    if transition.op in ON_ANOTHER_CHAIN and transition.checkpoint and _is_clean(ctx, env):
        states = {**transition.states, env.upper: LayerState.DISCARDED}
        transition = replace(transition, checkpoint=None, states=states)
    ctx.announce(Step.COMMIT)
    ctx.store.db.commit(transition, now())
    return transition


def _is_clean(ctx: Context, env: Environment) -> bool:
    """Tell whether there is surely nothing to save: what cannot be read is saved, not refused.

    There is no way back any more, and a commit that can never succeed would block all else.
    """
    try:
        return not is_dirty(ctx, env)
    except (EnvstackError, OSError):
        _log.exception("%s: it cannot be told what was not sealed; all of it is saved", env.name)
        return False


def build(ctx: Context, env: Environment) -> int:
    """Return a descriptor of the environment's overlay, attached nowhere; raises as `mount_of`."""
    layers = ctx.store.layers
    what = overlay.Overlay(
        source=mount_source(env.upper),
        lowers=ctx.trees(env, env.lowers),
        upper=layers.fs(env.upper),
        work=layers.work(env.upper),
    )
    return mount_of(ctx, what, like=ctx.beneath.reach(env, env.project))


def mount_of(ctx: Context, what: overlay.Overlay, like: bytes) -> int:
    """Return a descriptor of an overlay, attached nowhere; `like` as `overlay.build` has it.

    The error for a layer that the kernel refuses names it.
    Where overlayfs cannot make what it needs in the workdir it mounts read-only, and succeeds
    (ovl_get_workdir in fs/overlayfs/super.c): OSError ENOSPC or Unsupported here.
    """
    try:
        mount = ctx.mounts.build(what, like)
    except Unsupported as error:
        raise refused_layer(ctx, what.lowers) or error from error
    if what.upper and os.fstatvfs(mount).f_flag & os.ST_RDONLY:
        os.close(mount)
        room = os.statvfs(ctx.store.home)
        if room.f_bavail * room.f_frsize < _WORKDIR_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), ctx.store.home)
        raise Unsupported(
            "the kernel mounts this overlay read-only: the store's file system cannot serve",
            "put the store on ext4, xfs, btrfs or tmpfs (ENVSTACK_HOME)",
        )
    return mount


def new_upper(ctx: Context, env: Environment) -> LayerId:
    """Return the id of the environment's spare upper, or of a fresh row where there is none.

    Raises EnvstackError where there is no space for the row.
    """
    spare = _spare(ctx, env)
    if spare is None:
        ctx.store.db.require_space()
    return spare or _fresh_upper(ctx, env)


def _spare(ctx: Context, env: Environment) -> LayerId | None:
    spares = (row.id for row in ctx.store.db.layers(env.id) if row.state is LayerState.SPARE)
    return next(spares, None)


def _fresh_upper(ctx: Context, env: Environment) -> LayerId:
    upper = Layer(LayerId(new_id()), LayerKind.UPPER, LayerState.SPARE)
    ctx.store.db.add_layer(env.id, upper)
    return upper.id


def prepare_upper(ctx: Context, env: Environment, upper: LayerId) -> None:
    """Make the directories of an upper if they are missing, and say in `layer.json` whose it is."""
    if not ctx.store.layers.exists(upper):
        record = {"id": upper, "kind": LayerKind.UPPER, "env": env.id, "stack": env.stack_path}
        ctx.store.layers.make_upper(upper, record)


def dress_root(ctx: Context, env: Environment, root: bytes) -> None:
    """Make `root`, that of the environment's upper, like the one it stands on."""
    copy_root(ctx.trees(env, env.lowers[:1])[0], root)
    mark_dressed(ctx.store.layers.fs(env.upper))


def seal(ctx: Context, upper: LayerId, mounts: tuple[int, ...]) -> bool:
    """Make the superblock that wrote `upper` read-only; False while somebody still writes to it.

    `mounts` are descriptors of that superblock's mounts, closed when it is done.
    """
    ctx.announce(Step.SEAL)
    try:
        overlay.lock_superblock(mounts[0])
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    record_sealed(ctx, upper)
    # Last: what fails before this is tried again, with the same descriptors.
    for descriptor in mounts:
        os.close(descriptor)
    return True


def record_sealed(ctx: Context, upper: LayerId) -> None:
    """Write down that `upper` is out of reach: it is a layer now, or is deleted if discarded."""
    ctx.announce(Step.RECORD)
    layer = ctx.store.db.find_layer(upper)
    if layer is None:
        return
    if layer.state is LayerState.DISCARDED:
        ctx.defer(partial(discard, ctx, upper))
        return
    for checkpoint in ctx.store.db.checkpoints_on(upper):
        ctx.store.layers.describe(upper, asdict(checkpoint))
    ctx.store.layers.drop_work(upper)
    ctx.store.db.set_layer_state(upper, LayerState.SEALED)


def discard(ctx: Context, layer: LayerId) -> bool:
    """Delete a layer that nothing refers to; a job to be tried again while the feed needs it.

    For what was written there before it was left is to be told, unless its space is wanted more.
    """
    if views.needs(ctx, layer) and ctx.store.db.has_ample_space:
        return False
    ctx.announce(Step.DELETE)
    ctx.store.discard(layer)
    if not ctx.store.db.hold_space():
        ctx.defer(ctx.store.db.hold_space)  # the space may come a little later: somebody reads it
    return True


def make_spare(ctx: Context, env: Environment) -> bool:
    """Make the upper that the next rotation takes, so that it need not be made durable then."""
    ctx.announce(Step.SPARE)
    if not ctx.store.db.knows(env.id):
        return True
    # The ballast is not for the background: who fills the disk would take that too.
    upper = _spare(ctx, env) or _fresh_upper(ctx, env)
    prepare_upper(ctx, env, upper)
    if not ctx.store.db.knows(env.id):  # purged meanwhile, without this one
        discard(ctx, upper)
    return True
