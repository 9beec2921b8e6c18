"""Mount namespaces that no process is in: a bind mount or an open descriptor keeps them.

The kernel lists all namespaces since Linux 6.12 (NS_MNT_GET_NEXT, ioctl_nsfs(2)), for whoever has
CAP_SYS_ADMIN in the first user namespace; where it does not, none is found.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from envstack.linux import proc, syscalls
from envstack.linux.mountinfo import parse_mounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from envstack.linux.mountinfo import Mount

_INFO = struct.Struct("=IIQ")
"""struct mnt_ns_info: its size, how many mounts there are, the id."""


def _request(number: int) -> int:
    """Return what _IOR(0xb7, number, struct mnt_ns_info) is."""
    return 2 << 30 | _INFO.size << 16 | 0xB7 << 8 | number


_WAYS = (_request(11), _request(12))
"""NS_MNT_GET_NEXT and NS_MNT_GET_PREV."""

_ENDS = frozenset({errno.ENOENT, errno.ENOTTY, errno.EINVAL, errno.EPERM})
"""There is no more; or this kernel does not tell; or it does not tell us."""


def tables_without_process(known: Iterable[int]) -> Iterator[list[Mount]]:
    """Yield the mounts of each mount namespace that no process is in.

    `known` are the inode numbers of those that processes are known to be in.
    """
    known = frozenset(known)
    with ExitStack() as opened:
        for namespace, count in _namespaces(opened):
            number = os.fstat(namespace).st_ino
            # A copy of a mount does not stand alone: namespaces of the kernel's own do.
            if count > 1 and number not in known and not _is_inhabited(number):
                with ThreadPoolExecutor(1) as pool:
                    yield pool.submit(_read_inside, namespace).result()


def _namespaces(opened: ExitStack) -> Iterator[tuple[int, int]]:
    """Yield a descriptor of each other namespace, and how many mounts there are in it."""
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, own)
    for way in _WAYS:
        at = own
        while True:
            info = bytearray(_INFO.pack(_INFO.size, 0, 0))
            try:
                at = fcntl.ioctl(at, way, info)
            except OSError as error:
                if error.errno not in _ENDS:
                    raise
                break
            opened.callback(os.close, at)
            yield at, _INFO.unpack(info)[1]


def _is_inhabited(number: int) -> bool:
    """Tell whether a process is there by now: it may have come since processes were listed."""
    for pid in proc.processes():
        with suppress(*proc.GONE):
            if proc.namespace(pid) == number:
                return True
    return False


def _read_inside(namespace: int) -> list[Mount]:
    """Return the mounts of a namespace; in a thread of its own, which stays in there."""
    with ExitStack() as opened:
        # There need be no /proc there.
        here = os.open("/proc/thread-self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, here)
        syscalls.unshare(syscalls.CLONE_FS)
        syscalls.setns(namespace, syscalls.CLONE_NEWNS)
        table = os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=here)
        opened.callback(os.close, table)
        pieces = []
        while piece := os.read(table, 1 << 16):
            pieces.append(piece)
        return parse_mounts(b"".join(pieces))
