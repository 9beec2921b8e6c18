"""The mount point, and putting the environment's overlay on it."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from envstack.environment import drift
from envstack.environment.context import covered, mount_source
from envstack.environment.steps import Step
from envstack.environment.swap import build, dress_root, prepare_upper
from envstack.errors import Damaged, StateError, Unsupported
from envstack.linux.mountinfo import read_mounts, stack_at, topmost_at
from envstack.linux.syscalls import mount_id
from envstack.model import LayerState
from envstack.overlay import mount as overlay
from envstack.overlay.root import is_dressed
from envstack.sources.fingerprint import PRIVATE

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.linux.mountinfo import Mount
    from envstack.model import Chain, Environment

_SHOWN = 3


def mount(ctx: Context, env: Environment) -> None:
    """Mount the environment's upper on its chain, where nothing of it is mounted.

    Raises Damaged where a layer is gone, StateError where the upper is still in use (the processes
    on it would break at their next copy-up) or the mount point cannot serve.
    """
    require_layers(ctx, env, env.lowers, f"environment {env.name!r}")
    prepare_mount_point(ctx, env)
    require_unused(ctx, env)
    with ExitStack() as undo:
        ctx.beneath.hold(env)
        undo.callback(ctx.beneath.release, env.id)
        ctx.announce(Step.PREPARE)
        drift.forget(ctx, env)
        _prepare(ctx, env)
        ctx.announce(Step.BUILD)
        _attach(ctx, env, build(ctx, env))
        undo.pop_all()


def require_unused(ctx: Context, env: Environment) -> None:
    """Raise StateError while somebody is on a mount of the upper that was taken away."""
    if ctx.store.layers.exists(env.upper) and overlay.in_use(ctx.store.layers.fs(env.upper)):
        raise StateError(
            f"processes on a mount that was taken away still use the upper of {env.name!r}",
            "end them, then: envstack up",
        )


def _attach(ctx: Context, env: Environment, new: int) -> None:
    """Attach and keep the overlay; one that cannot be kept is taken off again."""
    try:
        ctx.announce(Step.ATTACH)
        overlay.attach(new, env.mount)
        try:
            ctx.keep(env.id, overlay.clone(new))
        except OSError:
            overlay.detach(new)
            raise
    finally:
        os.close(new)
    drift.watch(ctx, env)


def prepare_mount_point(ctx: Context, env: Environment) -> None:
    """Make the mount point if it is missing. Raises StateError where it cannot serve."""
    _require_bare(ctx, env)
    _check_mount_point(ctx, env)
    make_mount_point(env)


def _prepare(ctx: Context, env: Environment) -> None:
    """Make the upper of a first `up`, and dress a root that never was, as far as the disk knows.

    A power cut may take back what was done to the root, with all that was done to it since.
    """
    layer = ctx.store.db.find_layer(env.upper)
    is_new = layer is not None and layer.state is LayerState.BUILDING
    prepare_upper(ctx, env, env.upper)
    _require_xattrs(ctx.store.layers.work(env.upper))
    root = ctx.store.layers.fs(env.upper)
    if is_new or not is_dressed(root):
        dress_root(ctx, env, root)


def _require_xattrs(work: bytes) -> None:
    """Raise Unsupported where overlayfs cannot leave its marks, for the kernel mounts even so.

    It says "falling back" in its log, and a directory that is removed is EIO or comes back.
    """
    try:
        os.setxattr(work, "trusted.overlay.probe", b"y")
        os.removexattr(work, "trusted.overlay.probe")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise Unsupported(
            "the store's file system has no extended attributes, which overlayfs needs",
            "put the store on ext4, xfs, btrfs or tmpfs (ENVSTACK_HOME)",
        ) from error


def take_off(ctx: Context, env: Environment) -> None:
    """Take back a `mount` whose environment could not be recorded; nobody was told of it yet."""
    mounted = overlay.open_mount(env.mount)
    try:
        overlay.detach(mounted)
    finally:
        os.close(mounted)
    ctx.release(env.id)


def put_back(ctx: Context, env: Environment) -> None:
    """Attach the kept superblock again where somebody took the mount away.

    Raises StateError where something else is mounted there, or it is reached by a link by now: the
    mount would then be at another path, out of our sight.
    """
    _require_bare(ctx, env)
    _require_no_link(env)
    make_mount_point(env)
    _require_bare(ctx, env)  # once more: a project that was moved may have come back with its mount
    kept = ctx.kept[env.id]
    overlay.mark_as_copy(kept)
    overlay.attach(kept, env.mount)
    try:
        # Now, because before Linux 6.15 a detached mount cannot be cloned.
        ctx.keep(env.id, overlay.clone(kept))
    except OSError:
        ctx.release(env.id)  # it is attached, and can be taken over
        raise
    if _stands_on_its_like(kept):
        overlay.detach(kept)
    os.close(kept)


def _stands_on_its_like(mount: int) -> bool:
    """Tell whether an attached mount covers one of the same tree, which came back just now."""
    mounts = {each.id: each for each in read_mounts()}
    own = mounts.get(mount_id(b"", dir_fd=mount))
    below = mounts.get(own.parent) if own else None
    return own is not None and below is not None and below.source == own.source


def _require_bare(ctx: Context, env: Environment) -> None:
    """Raise StateError where something is mounted at the mount point.

    A project that is the root of a mount cannot be mounted over: after a restart no path would lead
    to the mount below.
    """
    mounts = read_mounts()
    top = topmost_at(mounts, env.mount)
    if top is not None:
        _require_not_ours(ctx, env, top)
    if top is not None and env.over_project:
        shown, source = os.fsdecode(env.project), os.fsdecode(top.source)
        raise StateError(
            f"the project {shown} is itself a mount point (of {source}), and cannot be mounted"
            " over",
            "choose another `mount`, or put the project into a directory of that file system",
        )
    if cover := covered(env, mounts):
        raise cover


def _require_not_ours(ctx: Context, env: Environment, top: Mount) -> None:
    """Raise StateError for an environment of this store: its project was moved here while up."""
    for other in ctx.store.db.environments():
        if top.source == mount_source(other.upper):
            stack = os.fsdecode(other.stack_path)
            raise StateError(
                f"{os.fsdecode(env.mount)} is the mount of environment {other.name!r} ({stack}),"
                " whose project was moved or deleted",
                f"move it back to {os.fsdecode(other.project)}, or: envstack down {stack}",
            )


def require_layers(ctx: Context, env: Environment, chain: Chain, what: str) -> None:
    """Raise Damaged if a layer of the chain is not on disk; `what` is to be mounted on it."""
    for layer, tree in zip(ctx.store.db.chain(chain), ctx.trees(env, chain), strict=True):
        if not os.path.isdir(tree):
            raise Damaged(
                f"{what} cannot be mounted: layer {layer.name or layer.id} is gone"
                f" from {os.fsdecode(ctx.store.tree(layer))}",
                "put the directory back",
            )


def _check_mount_point(ctx: Context, env: Environment) -> None:
    """Raise StateError where the environment must not be mounted."""
    shown = os.fsdecode(env.mount)
    home = os.path.realpath(ctx.store.home)
    if is_within(env.mount, home) or is_within(home, env.mount):
        raise StateError(
            f"the mount point {shown} and the store {os.fsdecode(home)} lie in one another",
            "choose another `mount`, or another ENVSTACK_HOME",
        )
    _require_no_link(env)
    if env.over_project:
        _require_nothing_mounted_inside(env)
    elif os.path.lexists(env.mount):
        _require_empty(env)


def _require_nothing_mounted_inside(env: Environment) -> None:
    """Raise StateError for a mount in the project: it would be hidden, and be in no layer."""
    mounts = read_mounts()
    for mount in mounts:
        inside = mount.point.startswith(env.project + b"/")
        if inside and mount in stack_at(mounts, mount.point):
            shown = os.fsdecode(mount.point)
            raise StateError(
                f"{shown} is mounted inside the project, and would be hidden",
                f"umount {shown}, or choose another `mount`",
            )


def _require_empty(env: Environment) -> None:
    shown = os.fsdecode(env.mount)
    if not os.path.isdir(env.mount):
        raise StateError(f"the mount point {shown} is not a directory", "move it aside")
    names = sorted(os.listdir(env.mount))
    if names:
        some = ", ".join(repr(os.fsdecode(name)) for name in names[:_SHOWN])
        raise StateError(
            f"the mount point {shown} is not empty: it holds {some}",
            "move what it holds elsewhere, or choose another `mount`",
        )


def _require_no_link(env: Environment) -> None:
    if os.path.realpath(env.mount) != env.mount:
        raise StateError(
            f"the mount point {os.fsdecode(env.mount)} is a symbolic link, or passes through one",
            "remove the link, or name the directory itself",
        )


def make_mount_point(env: Environment) -> None:
    """Make the mount point if it is missing; within `.envstack`, hide that from git too.

    Raises StateError without a project directory: it may be on a disk that is not mounted now.
    """
    if not os.path.isdir(env.project):
        raise StateError(f"the project {os.fsdecode(env.project)} is gone", "put it back")
    try:
        _make_directories(env.mount, like=env.project)
    except FileExistsError as error:
        raise StateError(
            f"{os.fsdecode(error.filename)} is a file, and the mount point lies below it",
            "move it aside, or choose another `mount`",
        ) from error
    except OSError as error:
        raise StateError(
            f"the mount point {os.fsdecode(env.mount)} cannot be made: {error.strerror}",
            "choose another `mount`",
        ) from error
    private = os.path.join(env.project, PRIVATE)
    if env.mount != private and is_within(env.mount, private):
        ignore = os.path.join(private, b".gitignore")
        with suppress(FileExistsError):
            with open(ignore, "x") as file:
                file.write("*\n")
            _open_to_all(ignore, 0o644, env.project)


def _make_directories(path: bytes, like: bytes) -> None:
    """Make a directory with those above it, for all to pass, owned by the owner of `like`.

    That one is never made: it may be moved away at this moment.
    """
    if os.path.isdir(path):
        return
    if path == like:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    _make_directories(os.path.dirname(path), like)
    os.mkdir(path)
    _open_to_all(path, 0o755, like)


def _open_to_all(path: bytes, mode: int, like: bytes) -> None:
    """Set mode and owner: the daemon's umask is 077, and root's environments have users."""
    owner = os.stat(like)
    os.chown(path, owner.st_uid, owner.st_gid)
    os.chmod(path, mode)


def remove_mount_point(env: Environment) -> None:
    """Remove what `make_mount_point` made, as far as nothing else lies there."""
    private = os.path.join(env.project, PRIVATE)
    if not is_within(env.mount, private):
        return
    with suppress(OSError):
        path = env.mount
        while path != private:
            os.rmdir(path)
            path = os.path.dirname(path)
    ignore = os.path.join(private, b".gitignore")
    with suppress(OSError):
        if os.listdir(private) == [b".gitignore"]:
            os.unlink(ignore)
            os.rmdir(private)


def is_within(path: bytes, directory: bytes) -> bool:
    """Tell whether `path` is `directory` or lies below it; both canonical."""
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")
