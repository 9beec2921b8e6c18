"""Exchange the mounted overlay for another in one step, and seal the upper that was on it.

The order is what keeps every promise, so it stands in one place, `swap`:

    register    the intent is durable, it names the new upper and all that will be committed
    prepare     the new upper has its root
    build       the new overlay exists, attached nowhere
    lock        nobody writes through the old mount any more
    beneath     the new overlay waits under the old mount
    detach      the new overlay shows; at no instant was the mount point empty
    commit      the database tells the new story

Up to `beneath` everything can be taken back and nothing has happened. The lock comes before
`beneath`, because umount(2) follows a descriptor up to the topmost mount that stands on it: an
overlay that lies beneath another cannot be taken off again (measured on Linux 6.18), so nothing is
put there before it is certain to stay.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from envstack.environment.context import mount_source, now
from envstack.environment.steps import Step
from envstack.errors import Held, StateError
from envstack.linux.syscalls import mount_id
from envstack.model import Layer, LayerId, LayerKind, LayerState, new_id
from envstack.overlay import mount as overlay
from envstack.overlay.diff import LayerTree, differs
from envstack.overlay.root import copy_root
from envstack.store.records import Op

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.linux.mountinfo import Mount
    from envstack.model import Chain, Environment
    from envstack.store.records import Transition


def swap(ctx: Context, env: Environment, mount: Mount, transition: Transition) -> Transition:
    """Replace `mount`, that of `env`, by that of `transition.after`; return what was committed.

    Nobody may be inside who must not be stranded. Raises Held if somebody goes on writing, and
    StateError if something was mounted over it meanwhile, with nothing changed.
    """
    ctx.announce(Step.REGISTER)
    ctx.store.db.begin(transition)
    with ExitStack() as undo:
        undo.callback(_take_back, ctx, env, transition.after.upper)
        old, new = _lay_beneath(ctx, env, mount, transition, undo)
        undo.pop_all()
    ctx.announce(Step.DETACH)
    overlay.detach(old)
    before = ctx.keep(env.id, overlay.clone(new))
    os.close(new)
    held = (old,) if before is None else (old, before)
    with ExitStack() as uncommitted:
        for descriptor in held:
            uncommitted.callback(os.close, descriptor)
        done = commit(ctx, env, transition)
        uncommitted.pop_all()
    ctx.defer(lambda: seal(ctx, env.upper, held))
    return done


def _take_back(ctx: Context, env: Environment, upper: LayerId) -> None:
    ctx.store.db.abandon(env.id, [upper])
    ctx.defer(lambda: discard(ctx, upper))


def _lay_beneath(
    ctx: Context, env: Environment, mount: Mount, transition: Transition, undo: ExitStack
) -> tuple[int, int]:
    """Return descriptors of the old mount, locked, and of the new one that waits beneath it."""
    after = transition.after
    ctx.announce(Step.PREPARE)
    prepare_upper(ctx, env, after)
    ctx.announce(Step.BUILD)
    new = build(ctx, after)
    undo.callback(os.close, new)
    old = overlay.open_mount(env.mount)
    undo.callback(os.close, old)
    if mount_id(b"", dir_fd=old) != mount.id:
        raise StateError(f"{os.fsdecode(env.mount)} was covered by another mount", "try again")
    ctx.announce(Step.LOCK)
    _lock(old, transition)
    undo.callback(overlay.unlock_mount, old)
    ctx.announce(Step.BENEATH)
    overlay.attach_beneath(new, old)
    return old, new


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

    A rollback brings a candidate for the checkpoint `saved`; whether there was anything to save is
    looked up now, when nobody can write into the old upper any more.
    """
    if transition.op is Op.ROLLBACK and transition.checkpoint and not is_dirty(ctx, env):
        states = {**transition.states, env.upper: LayerState.DISCARDED}
        transition = replace(transition, checkpoint=None, states=states)
    ctx.announce(Step.COMMIT)
    ctx.store.db.commit(transition, now())
    return transition


def is_dirty(ctx: Context, env: Environment) -> bool:
    """Tell whether the merged tree differs from the chain that its upper stands on."""
    lowers = layer_trees(ctx, env.lowers)
    return differs(lowers, (LayerTree(ctx.store.layers.fs(env.upper)), *lowers))


def layer_trees(ctx: Context, chain: Chain) -> tuple[LayerTree, ...]:
    """Return a chain as `overlay.diff` reads it."""
    return tuple(LayerTree(path) for path in ctx.store.trees(chain))


def build(ctx: Context, env: Environment) -> int:
    """Return a descriptor of the environment's overlay, attached nowhere."""
    layers = ctx.store.layers
    return overlay.build(
        overlay.Overlay(
            source=mount_source(env.upper),
            lowers=ctx.store.trees(env.lowers),
            upper=layers.fs(env.upper),
            work=layers.work(env.upper),
        ),
        like=env.project,
    )


def new_upper(ctx: Context, env: Environment) -> LayerId:
    """Return the id of the environment's spare upper, or of a fresh row where there is none."""
    for layer in ctx.store.db.layers(env.id):
        if layer.state is LayerState.SPARE:
            return layer.id
    upper = Layer(LayerId(new_id()), LayerKind.UPPER, LayerState.SPARE)
    ctx.store.db.add_layer(env.id, upper)
    return upper.id


def prepare_upper(ctx: Context, env: Environment, after: Environment) -> None:
    """Make the directories of `after.upper` if they are missing; its root is like the one below."""
    layers = ctx.store.layers
    if not layers.exists(after.upper):
        layers.make_upper(after.upper, upper_record(env, after.upper))
    below = ctx.store.trees(after.lowers[:1])[0]
    copy_root(below, layers.fs(after.upper))


def upper_record(env: Environment, upper: LayerId) -> dict[str, object]:
    """Return what `layer.json` says of an upper."""
    return {"id": upper, "kind": LayerKind.UPPER, "env": env.id, "stack": env.stack_path}


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
        discard(ctx, upper)
        return
    for checkpoint in ctx.store.db.checkpoints_on(upper):
        ctx.store.layers.describe(upper, asdict(checkpoint))
    ctx.store.layers.drop_work(upper)
    ctx.store.db.set_layer_state(upper, LayerState.SEALED)


def discard(ctx: Context, layer: LayerId) -> bool:
    """Delete a layer that nothing refers to; a job that is done at once."""
    ctx.announce(Step.DELETE)
    ctx.store.discard(layer)
    return True


def make_spare(ctx: Context, env: Environment) -> bool:
    """Make the upper that the next rotation takes, so that it need not be made durable then."""
    ctx.announce(Step.SPARE)
    if not ctx.store.db.knows(env.id):
        return True
    upper = new_upper(ctx, env)
    if not ctx.store.layers.exists(upper):
        ctx.store.layers.make_upper(upper, upper_record(env, upper))
    return True
