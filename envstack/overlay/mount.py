"""The kernel's overlayfs as a handful of moves: build, attach, put beneath, lock, detach.

Owns how an overlay is mounted and how one is exchanged for another. Knows no store, no history and
no order of steps: that is the business of `environment`. A mount is an open file descriptor here,
never a path, because a path may name another mount a moment later.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass

from envstack.errors import StateError, Unsupported
from envstack.linux import syscalls as sys

MAX_LOWERS = 500
"""OVL_MAX_STACK: the kernel refuses a mount with more lowers (fs/overlayfs/params.h)."""

REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV)

_MAX_VALUE = 255
"""FSCONFIG_SET_STRING copies 256 bytes with the final NUL (fs/fsopen.c)."""

OPTIONS = {
    b"index": b"off",
    b"metacopy": b"off",
    b"redirect_dir": b"nofollow",
    b"xino": b"on",
}
"""`index=on` answers ESTALE once an upper is part of another chain; `redirect_dir=off` would still
follow redirects; without `xino` inode numbers change at copy-up, and the names of one file get two
of them, where a layer is on another file system (overlayfs.rst; on 6.18 `auto` does not do)."""

_CARRIED_OVER = {
    os.ST_NOSUID: sys.MOUNT_ATTR_NOSUID,
    os.ST_NODEV: sys.MOUNT_ATTR_NODEV,
    os.ST_NOEXEC: sys.MOUNT_ATTR_NOEXEC,
}


@dataclass(frozen=True, slots=True)
class Overlay:
    """What is to be mounted: `lowers` topmost first, absolute paths; `source` names the mount.

    Without `upper` and `work` it is read-only, and takes two lowers at the least.
    """

    source: bytes
    lowers: tuple[bytes, ...]
    upper: bytes = b""
    work: bytes = b""


def build(overlay: Overlay, like: bytes) -> int:
    """Return a descriptor of a detached mount of `overlay` (`lowerdir+`: Linux 6.8).

    `nosuid`, `nodev` and `noexec` are those of the file system that `like` lies on. Raises
    Unsupported, with the kernel's own words, where the layers' file systems cannot serve.
    """
    opened: list[int] = []
    context = sys.fsopen(b"overlay")
    try:
        sys.fsconfig_string(context, b"source", overlay.source)
        for lower in overlay.lowers:
            sys.fsconfig_string(context, b"lowerdir+", _spelling(lower, opened))
        for key, place in ((b"upperdir", overlay.upper), (b"workdir", overlay.work)):
            if place:
                sys.fsconfig_string(context, key, _spelling(place, opened))
        for key, value in OPTIONS.items():
            sys.fsconfig_string(context, key, value)
        sys.fsconfig_create(context)
        return sys.fsmount(context, _attributes(like))
    except OSError as error:
        if error.errno in REFUSALS:
            raise refusal(f"{error.strerror}") from error
        raise
    finally:
        for descriptor in (context, *opened):
            os.close(descriptor)


def refusal(why: str) -> Unsupported:
    """Return the error for an overlay that the kernel refuses with one of `REFUSALS`."""
    return Unsupported(
        f"the kernel refuses this overlay: {why}",
        "put the store on a file system that can: ext4, xfs, btrfs, tmpfs (ENVSTACK_HOME)",
    )


def _spelling(path: bytes, opened: list[int]) -> bytes:
    """Return how to hand `path` to fsconfig: itself, or by descriptor where it would be mangled."""
    if len(path) <= _MAX_VALUE and b"\\" not in path:
        return path
    opened.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    return b"/proc/self/fd/%d" % opened[-1]


def _attributes(like: bytes) -> int:
    flags = os.statvfs(like).f_flag
    return sum(attribute for flag, attribute in _CARRIED_OVER.items() if flags & flag)


def open_mount(point: bytes) -> int:
    """Return a descriptor of the mount that is visible at `point`."""
    return sys.open_tree(point)


def clone(mount: int) -> int:
    """Return a detached copy of the mount: it holds the superblock, and can be attached later."""
    return sys.open_tree(b"", sys.OPEN_TREE_CLONE, dir_fd=mount)


def clone_tree(mount: int) -> int:
    """Return a detached copy of the mount and of all that is mounted in it, for `attach_within`.

    No mount event reaches it, and none goes out from it.
    """
    copy = sys.open_tree(b"", sys.OPEN_TREE_CLONE | sys.AT_RECURSIVE, dir_fd=mount)
    try:
        sys.mount_setattr(copy, propagation=sys.MS_PRIVATE, flags=sys.AT_RECURSIVE)
    except OSError:
        os.close(copy)
        raise
    return copy


def attach_within(mount: int, target: int) -> None:
    """Attach a detached mount at a directory or file of another one that is attached nowhere.

    Raises OSError EINVAL where the kernel cannot (before Linux 6.15).
    """
    sys.move_mount(mount, target)


def mark_as_copy(mount: int) -> None:
    """Mark a detached copy that is to take the place of the mount that it was made from.

    Who looks for holders then asks for those on the first one too.
    """
    sys.mount_setattr(mount, attr_set=sys.MOUNT_ATTR_NODIRATIME)


def attach(mount: int, point: bytes) -> None:
    """Attach a detached mount at the directory `point`, over whatever is visible there.

    Raises StateError where that is deleted, which it may be by somebody else at any time.
    """
    with ExitStack() as stack:
        try:
            target = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, target)
            sys.move_mount(mount, target)
        except FileNotFoundError as error:
            raise StateError(
                f"the mount point {os.fsdecode(point)} was deleted", "envstack up makes it anew"
            ) from error


def attach_beneath(mount: int, top: int) -> None:
    """Attach a detached mount under the mount `top`: it shows once `top` is gone (Linux 6.5)."""
    sys.move_mount(mount, top, sys.MOVE_MOUNT_BENEATH)


def lock_mount(mount: int, patience: float = 0.25) -> None:
    """Make one attached mount read-only, also for those who stay in it after it is detached.

    Raises OSError EBUSY after `patience` seconds of somebody holding a file open for writing.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return sys.mount_setattr(mount, attr_set=sys.MOUNT_ATTR_RDONLY)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.001)


def unlock_mount(mount: int) -> None:
    """Take `lock_mount` back."""
    sys.mount_setattr(mount, attr_clr=sys.MOUNT_ATTR_RDONLY)


def detach(mount: int) -> None:
    """Take the mount out of the tree at once; who is inside stays inside (MNT_DETACH)."""
    sys.umount(b"/proc/self/fd/%d" % mount, sys.MNT_DETACH)


def unmount(point: bytes) -> None:
    """Take off the mount at `point`; OSError EBUSY while it is used."""
    sys.umount(point, sys.UMOUNT_NOFOLLOW)


def lock_superblock(mount: int) -> None:
    """Make the superblock read-only: every mount of it, everywhere, and all written data is synced.

    Raises OSError EBUSY while any file of it is open for writing or, unlinked, open at all.
    """
    context = sys.fspick(mount)
    try:
        sys.fsconfig_flag(context, b"ro")
        sys.fsconfig_reconfigure(context)
    finally:
        os.close(context)


def refresh(mount: int) -> None:
    """Make the overlay look its names up anew: layers may have changed beneath it.

    A reconfigure that changes no option shrinks its cache of names (shrink_dcache_sb in
    fs/super.c). Nobody is disturbed, and what somebody has open stays what it was.
    """
    context = sys.fspick(mount)
    try:
        sys.fsconfig_reconfigure(context)
    finally:
        os.close(context)


def in_use(upper: bytes) -> bool:
    """Tell whether some overlay, mounted or merely held, uses `upper`.

    Asked of the kernel: an overlay with `index=on` whose upper and work directory are one is
    refused either way, with EBUSY where the upper is in use and EINVAL where it is free. The one
    lower by `lowerdir`, which every kernel has: `lowerdir+` would be EINVAL on one without it.
    """
    opened = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    context = sys.fsopen(b"overlay")
    try:
        for key in (b"lowerdir", b"upperdir", b"workdir"):
            sys.fsconfig_string(context, key, b"/proc/self/fd/%d" % opened)
        sys.fsconfig_string(context, b"index", b"on")
        sys.fsconfig_create(context)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EINVAL):
            raise
        return error.errno == errno.EBUSY
    else:
        raise Unsupported(f"this kernel takes {os.fsdecode(upper)} as upper and workdir at once")
    finally:
        os.close(context)
        os.close(opened)
