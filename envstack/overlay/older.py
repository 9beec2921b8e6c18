"""What an older kernel has in the place of newer calls, and which of the two this kernel has.

Owns the building of an overlay by mount(2). Chooses nothing: that is the business of `environment`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from envstack.linux import syscalls as sys
from envstack.overlay.mount import OPTIONS, REFUSALS, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.overlay.mount import Overlay

_PAGE = 4096
"""Bytes: what mount(2) reads of its data, the final NUL included; the rest is cut off silently."""

EmptyDirectory = Callable[[], AbstractContextManager[bytes]]
"""Makes an empty directory that is there as long as the context lasts."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_CARRIED_OVER = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
"""The flags of statvfs(3) have the numbers of those of mount(2)."""


def build(empty: EmptyDirectory, overlay: Overlay, like: bytes) -> int:
    """Return what `overlay.mount.build` returns, and raise what it raises, by mount(2).

    mount(2) attaches at once: so it mounts at an `empty` directory, and takes the mount off again
    when it has a detached copy of it. Killed in between, it leaves the mount there.
    """
    flags = os.statvfs(like).f_flag & _CARRIED_OVER
    with ExitStack() as stack:
        data = _data(stack, overlay)
        point = stack.enter_context(empty())
        try:
            with _among_descriptors():
                sys.mount(overlay.source, point, b"overlay", flags, data)
        except OSError as error:
            if error.errno in REFUSALS:
                raise refusal(f"{os.strerror(error.errno)} (dmesg has its reason)") from error
            raise
        stack.callback(sys.umount, point, sys.MNT_DETACH | sys.UMOUNT_NOFOLLOW)
        return sys.open_tree(point, sys.OPEN_TREE_CLONE)


def _open(stack: ExitStack, path: bytes) -> int:
    descriptor = os.open(path, _DIRECTORY)
    stack.callback(os.close, descriptor)
    return descriptor


@contextmanager
def _among_descriptors() -> Iterator[None]:
    """Let this thread alone have /proc/self/fd as its working directory.

    There the name of a directory is the number of a descriptor: no separators to escape, and 500 of
    them fit into the page that mount(2) reads.
    """
    sys.unshare(sys.CLONE_FS)
    before = os.open(".", _DIRECTORY)
    try:
        os.chdir("/proc/self/fd")
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def _data(stack: ExitStack, overlay: Overlay) -> bytes:
    """Return the options, each directory by the number of a descriptor that `stack` will close."""
    options = {b"lowerdir": b":".join(b"%d" % _open(stack, path) for path in overlay.lowers)}
    for key, place in ((b"upperdir", overlay.upper), (b"workdir", overlay.work)):
        if place:
            options[key] = b"%d" % _open(stack, place)
    data = b",".join(b"%b=%b" % option for option in (options | OPTIONS).items())
    if len(data) >= _PAGE:
        raise OSError(errno.E2BIG, "mount: more options than the kernel reads")
    return data


def takes_lowers_one_by_one(one: bytes, other: bytes) -> bool:
    """Tell whether overlayfs knows `lowerdir+` (Linux 6.8), tried with two directories.

    They stay as they are: without an upper nothing is written, and it is mounted nowhere. Before
    Linux 6.5 any key was taken, to be refused when the superblock is made. Where these directories
    cannot be layers either, the answer is no, and building will tell of it.
    """
    with ExitStack() as stack:
        try:
            context = sys.fsopen(b"overlay")
            stack.callback(os.close, context)
            for path in (one, other):
                name = b"/proc/self/fd/%d" % _open(stack, path)
                sys.fsconfig_string(context, b"lowerdir+", name)
            sys.fsconfig_create(context)
        except OSError as error:
            if error.errno not in (*REFUSALS, errno.EPERM):
                raise
            return False
    return True


def mounts_beneath() -> bool:
    """Tell whether move_mount(2) knows MOVE_MOUNT_BENEATH (Linux 6.5).

    Flags are looked at before descriptors: EINVAL for one that is unknown, else EBADF for these.
    """
    nothing = -1
    try:
        sys.move_mount(nothing, nothing, sys.MOVE_MOUNT_BENEATH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EPERM):
            raise
        return error.errno == errno.EBADF
    raise AssertionError("there is no such descriptor")
