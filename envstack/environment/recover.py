"""Bring database, disk and mount table back to one story, whatever the daemon was killed in.

What counts is which mount lies on top. A new upper that is mounted, or that holds something, means
that the exchange happened: roll forward; else roll back. Nothing that a user wrote is deleted: what
nobody knows goes to `lost+found/`, and `staging/` alone is garbage.
"""

from __future__ import annotations

import errno
import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from envstack.environment import drift, in_place
from envstack.environment.context import covered, mount_source, visible_mount
from envstack.environment.durability import take_up
from envstack.environment.history import count
from envstack.environment.mounting import mount, put_back
from envstack.environment.swap import commit, discard, make_spare, record_sealed, seal
from envstack.errors import EnvstackError
from envstack.linux.mountinfo import read_mounts, stack_at
from envstack.linux.syscalls import mount_id
from envstack.model import LayerKind, LayerState
from envstack.overlay import mount as overlay
from envstack.store.records import Op

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.model import Environment, Layer, LayerId
    from envstack.store.records import Transition

_log = logging.getLogger(__name__)

_KEPT_FOR = 7 * 86400.0
"""Seconds: how long a layer waits for its `up`, which failed after it was built, to be repeated."""


def recover(ctx: Context) -> None:
    """Recover the whole store, and mount again what was up. Raises Damaged alone."""
    ctx.store.layers.sweep()
    for env in ctx.store.db.environments():
        if not _is_in_place(ctx, env):
            _settle(ctx, env)
    take_up(ctx)
    _sort_layers(ctx)
    # One may lie in the merged tree of another: that one comes first.
    for env in sorted(ctx.store.db.environments(), key=lambda env: len(env.mount)):
        restore(ctx, env)
        if _is_in_place(ctx, env):
            _settle(ctx, env)
        if env.id in ctx.kept:
            ctx.defer(partial(make_spare, ctx, env))
    for checkpoint in ctx.store.db.uncounted():
        env = ctx.store.db.environment(checkpoint.env)
        ctx.defer(partial(count, ctx, env, checkpoint))


def _is_in_place(ctx: Context, env: Environment) -> bool:
    """Tell whether a rollback in place was begun, which is finished when the tree is mounted."""
    transition = ctx.store.db.intent(env.id)
    return transition is not None and transition.is_in_place(env)


def _settle(ctx: Context, env: Environment) -> None:
    try:
        settle(ctx, env)
    except (EnvstackError, OSError) as error:
        _log.exception("%s: what was begun cannot be finished yet", env.name)
        ctx.faults[env.id] = f"what was begun cannot be finished yet: {error}"


def settle(ctx: Context, env: Environment) -> None:
    """Close the environment's open intent, if there is one: forward, or back."""
    transition = ctx.store.db.intent(env.id)
    if transition is None:
        return
    if transition.is_in_place(env):
        restore(ctx, env)
        in_place.resume(ctx, env, transition)
        return
    if _has_happened(ctx, env, transition):
        _log.info("%s: %s had happened, it is committed", env.name, transition.op)
        _uncover(env, transition)
        done = commit(ctx, env, transition)
        _finish(ctx, env.upper)
        if done.checkpoint:
            ctx.defer(partial(count, ctx, env, done.checkpoint))
            take_up(ctx)
        restore(ctx, transition.after)
    else:
        _log.info("%s: %s had not happened, it is abandoned", env.name, transition.op)
        fresh = [transition.after.upper] if transition.after.upper != env.upper else []
        ctx.store.db.abandon(env.id, fresh)
        for upper in fresh:
            ctx.defer(partial(discard, ctx, upper))
        restore(ctx, env)


def _finish(ctx: Context, upper: LayerId) -> None:
    """Do for the upper that was exchanged what would have been done in the background."""
    layer = ctx.store.db.find_layer(upper)
    if layer is not None and layer.state is LayerState.SEALING:
        seal_again(ctx, upper)
    elif layer is not None and layer.state is LayerState.DISCARDED:
        ctx.defer(partial(discard, ctx, upper))


def _has_happened(ctx: Context, env: Environment, transition: Transition) -> bool:
    after = transition.after
    if transition.op is Op.DOWN:  # which takes it off wherever it is
        return mount_source(env.upper) not in [mount.source for mount in read_mounts()]
    sources = [mount.source for mount in stack_at(read_mounts(), after.mount)]
    if mount_source(after.upper) in sources:
        return True
    if after.upper == env.upper or mount_source(env.upper) in sources:
        return False
    layers = ctx.store.layers
    return layers.exists(after.upper) and not layers.is_empty(after.upper)


def _uncover(env: Environment, transition: Transition) -> None:
    """Take off the old mount where the daemon was killed before it did.

    Raises StateError where something else is mounted over it.
    """
    after, before = mount_source(transition.after.upper), mount_source(env.upper)
    while True:
        mounts = read_mounts()
        sources = [mount.source for mount in stack_at(mounts, env.mount)]
        if before not in sources or sources[-1] == after:
            return
        if cover := covered(env, mounts):
            raise cover
        old = overlay.open_mount(env.mount)
        try:
            overlay.lock_mount(old)
            overlay.detach(old)
        finally:
            os.close(old)


def restore(ctx: Context, env: Environment) -> None:
    """Keep the mount of an environment that is wanted up, put it back, or mount it anew.

    Failure leaves the environment degraded: the reason is logged, and shown by `status`. While an
    intent is open nobody can say which upper is to be mounted, and the wrong one would decide it;
    but for a rollback in place, which keeps the upper.
    """
    is_open = ctx.store.db.intent(env.id) is not None
    if not env.wanted or (is_open and not _is_in_place(ctx, env)):
        return
    try:
        if visible_mount(env):
            if env.id not in ctx.kept:
                _adopt(ctx, env)
        elif env.id in ctx.kept:
            put_back(ctx, env)
            _log.info("%s was unmounted by somebody, and is mounted again", env.name)
        else:
            mount(ctx, env)
    except (EnvstackError, OSError) as error:
        _log.warning("%s cannot be mounted: %s", env.name, error)
        ctx.faults[env.id] = (error.strerror if isinstance(error, OSError) else None) or str(error)
    else:
        ctx.faults.pop(env.id, None)


def _adopt(ctx: Context, env: Environment) -> None:
    """Take over a mount that outlived its daemon, and a lock that was left on it."""
    found = overlay.open_mount(env.mount)
    try:
        overlay.unlock_mount(found)
        ctx.keep(env.id, overlay.clone(found))
    finally:
        os.close(found)
    drift.watch(ctx, env)


def _sort_layers(ctx: Context) -> None:
    """Make every row of a layer and every directory in `layers/` mean something again."""
    environments = ctx.store.db.environments()
    intents = [ctx.store.db.intent(env.id) for env in environments]
    stories = [*environments, *(intent.after for intent in intents if intent)]
    needed = {layer for env in stories for layer in (env.upper, *env.base, *env.lowers)}
    needed |= ctx.store.db.history()
    rows = {layer.id: layer for layer in ctx.store.db.layers()}
    for layer in rows.values():
        try:
            _sort(ctx, layer, needed)
        except (EnvstackError, OSError):
            _log.exception("layer %s (%s) is left as it is", layer.id, layer.state)
    for name in list(ctx.store.layers.names()):
        if name not in rows:
            place = ctx.store.layers.lose(name)
            _log.warning("an unknown layer was moved to %s", os.fsdecode(place))


def _sort(ctx: Context, layer: Layer, needed: set[LayerId]) -> None:
    match layer.state:
        case LayerState.DISCARDED:
            ctx.defer(partial(discard, ctx, layer.id))
        case LayerState.BUILDING if layer.id not in needed:
            discard(ctx, layer.id)
        case LayerState.SEALED if layer.key is not None and layer.id not in needed:
            if ctx.store.layers.age(layer.id) > _KEPT_FOR:
                discard(ctx, layer.id)
        case LayerState.SPARE if not ctx.store.layers.exists(layer.id):
            discard(ctx, layer.id)
        case LayerState.BUILDING | LayerState.SPARE:
            pass
        case _ if layer.kind is not LayerKind.DIR and not ctx.store.layers.exists(layer.id):
            _log.error("damage: the directory of layer %s (%s) is gone", layer.id, layer.state)
        case LayerState.SEALING:
            seal_again(ctx, layer.id)


def seal_again(ctx: Context, layer: LayerId) -> bool:
    """Take up the second lock where it was not reached.

    An upper that no overlay uses is out of everybody's reach. One that is used by a mount which can
    be found is locked there; else nobody can say what is written into it.
    """
    if ctx.store.db.find_layer(layer) is None:  # deleted meanwhile
        return True
    if not overlay.in_use(ctx.store.layers.fs(layer)):
        record_sealed(ctx, layer)
        return True
    found = find_mount(layer)
    if found is None:
        _log.warning("layer %s is still in use by a mount that cannot be found", layer)
        ctx.store.db.set_layer_state(layer, LayerState.UNSEALED)
        return True
    ctx.defer(lambda: seal(ctx, layer, (found,)))
    return True


def find_mount(layer: LayerId) -> int | None:
    """Return a descriptor of any mount, in any mount namespace, of the overlay on `layer`."""
    source = mount_source(layer)
    namespaces: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            namespace = os.stat(f"/proc/{name}/ns/mnt").st_ino
            if namespace in namespaces:
                continue
            namespaces.add(namespace)
            for mount in read_mounts(int(name)):
                if mount.source == source and mount.root == b"/":
                    found = overlay.open_mount(b"/proc/%s/root%s" % (name.encode(), mount.point))
                    if mount_id(b"", dir_fd=found) == mount.id:
                        return found
                    os.close(found)  # what is mounted over it is none of ours
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH, errno.EACCES):
                raise
    return None
