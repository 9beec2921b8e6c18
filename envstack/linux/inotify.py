"""What the kernel tells of an inotify instance besides its events (inotify(7), proc_pid_fdinfo(5)).

For an instance of this process that somebody else reads. Reads no event, and adds no watch.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
from contextlib import suppress

from envstack.linux import proc

EVENT_BYTES = 16
"""The least that an event takes in a queue: sizeof(struct inotify_event), when it has no name."""

_F_SETOWN_EX = 15
_F_OWNER_TID = 0

_INSTANCE = b"anon_inode:inotify"
_SYSCTLS = b"/proc/sys/fs/inotify/"
_WATCH = re.compile(rb"^inotify wd:[0-9a-f]+ ino:([0-9a-f]+) ", re.MULTILINE)


def instances() -> set[int]:
    """Return the descriptors of this process that are inotify instances."""
    found = set()
    for name in os.listdir(b"/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed since it was listed
            if os.readlink(b"/proc/self/fd/" + name) == _INSTANCE:
                found.add(int(name))
    return found


def ring(instance: int, thread: int) -> None:
    """Let the kernel send SIGIO to that thread of this process for each event that is queued.

    The thread must have SIGIO blocked, or the process ends. Signals that wait are one, so that a
    signal says no more than that something is there or was. Raises OSError where it is refused.
    """
    fcntl.fcntl(instance, _F_SETOWN_EX, struct.pack("ii", _F_OWNER_TID, thread))
    fcntl.fcntl(instance, fcntl.F_SETFL, fcntl.fcntl(instance, fcntl.F_GETFL) | os.O_ASYNC)


def queued_bytes(instance: int) -> int:
    """Return how many bytes of events nobody has read as yet (FIONREAD)."""
    answer = fcntl.ioctl(instance, termios.FIONREAD, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])


def watched(instance: int) -> set[int]:
    """Return the inode numbers of all that is watched; it takes some 4 us a watch."""
    content = proc.read(b"/proc/self/fdinfo/%d" % instance)
    return {int(number, 16) for number in _WATCH.findall(content)}


def max_queued_events() -> int:
    """Return how many events an instance made now can hold; what comes then is dropped."""
    return int(proc.read(_SYSCTLS + b"max_queued_events"))
