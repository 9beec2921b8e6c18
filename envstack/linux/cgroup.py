"""Control groups whose processes can be made to stand still, all of them at once: cgroups(7).

Owns where this machine lets such a group be made, and the files of one: to join it, freeze it, thaw
it, remove it. A group lies below the cgroup of the process that makes it, in a directory whose name
nobody else gives, so that groups of a process that is no more are found again by who is in them.
"""

from __future__ import annotations

import errno
import os
import re
import select
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.linux import proc
from envstack.linux.mountinfo import read_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

V2, V1 = b"cgroup2", b"freezer"
"""The kinds of group: of the unified hierarchy (Linux 5.2), and of the freezer of version 1."""

_OURS = re.compile(rb"(.*?)/(envstack-[0-9a-f]{16})(?:/|\Z)(.*)", re.DOTALL)
_PAUSE = 0.0005
"""Seconds between two looks at a group of version 1, which tells nobody that it is frozen."""

_GONE = (errno.ENOENT, errno.ENODEV)
"""Of a group that was removed: before its file was opened, or after."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One group, by its kind and its directory. Whoever is in it may make groups below it."""

    kind: bytes
    path: bytes

    @property
    def order(self) -> bytes:
        """How a guard is told of it."""
        return self.kind + b" " + self.path

    @property
    def entrance(self) -> bytes:
        """The file that a process writes "0" to in order to join, and its children with it."""
        return os.path.join(self.path, b"cgroup.procs")

    @property
    def switch(self) -> bytes:
        """The file by which it is frozen and thawed."""
        return os.path.join(self.path, b"cgroup.freeze" if self.kind == V2 else b"freezer.state")

    def freeze(self) -> None:
        """Ask the kernel to let nobody in the group go on; `stands_still` waits until it is so."""
        write(self.switch, b"1" if self.kind == V2 else b"FROZEN")

    def stands_still(self, deadline: float) -> bool:
        """Wait until nobody in the group runs; False where that is not so by the deadline.

        `deadline` is of the monotonic clock. Who waits for a disk or a server that does not answer
        cannot be frozen before it does.
        """
        return (_is_still if self.kind == V2 else _is_still_v1)(self.path, deadline)

    def thaw(self) -> None:
        """Let everybody go on; no harm where nobody was frozen, or the group is gone."""
        try:
            write(self.switch, b"0" if self.kind == V2 else b"THAWED")
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def is_empty(self) -> bool:
        """Tell whether nobody is in the group, nor in any below it."""
        if self.kind == V2:
            return b"populated 1" not in _content(os.path.join(self.path, b"cgroup.events"))
        members = (os.path.join(path, b"cgroup.procs") for path in self._directories())
        return not any(map(_content, members))

    def remove(self) -> None:
        """Remove the group and those below it that are empty; who is in one keeps it."""
        for directory in self._directories():
            _remove(directory)

    def _directories(self) -> list[bytes]:
        """Return the directories of the groups below it, deepest first, and its own."""
        return [directory for directory, _, _ in os.walk(self.path, topdown=False)]


def write(file: bytes, word: bytes) -> None:
    """Write to a file of a cgroup, as a whole."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, word)
    finally:
        os.close(descriptor)


def make(family: bytes, name: bytes) -> Cgroup | None:
    """Make the group `name` of a family, or take the one that is there.

    `family` is 16 hexadecimal digits, for instance of the one who keeps the groups. Returns None
    where this machine lets nobody make a group that can be frozen, or not this process.
    """
    for kind, place in _places():
        parent = os.path.join(place, b"envstack-" + family)
        group = Cgroup(kind, os.path.join(parent, name))
        try:
            for directory in (parent, group.path):
                with suppress(FileExistsError):
                    os.mkdir(directory, 0o755)
            if all(os.access(file, os.W_OK) for file in (group.entrance, group.switch)):
                return group
        except OSError:
            pass  # no place to make groups: read-only, not delegated, full
        _remove(group.path)
        _remove(parent)
    return None


def find(family: bytes) -> Iterator[tuple[bytes, Cgroup]]:
    """Yield each group of a family, with its name: those that are here, and those somebody is in.

    One may come twice.
    """
    ours = b"envstack-" + family
    for kind, place in _places():
        parent = os.path.join(place, ours)
        with suppress(OSError):
            for name in os.listdir(parent):
                if os.path.isdir(path := os.path.join(parent, name)):
                    yield name, Cgroup(kind, path)
    mounted = _mounted()
    for pid in proc.processes():
        for kind, path in _of_process(pid, mounted):
            found = _OURS.match(path)
            if found and found[2] == ours and found[3]:
                name = found[3].partition(b"/")[0]
                directory = os.path.join(found[1], ours, name)
                if os.path.isdir(directory):  # of a zombie it may be gone
                    yield name, Cgroup(kind, directory)


def forget(family: bytes) -> None:
    """Remove the directories of a family that no group is in."""
    for _, place in _places():
        _remove(os.path.join(place, b"envstack-" + family))


def leave() -> None:
    """Take this process out of every group of any family, to where that family lies.

    Who keeps groups must be in none: it would freeze itself. Raises OSError where it has to stay.
    """
    for _, path in _of_process(os.getpid(), _mounted()):
        found = _OURS.match(path)
        if found:
            write(os.path.join(found[1], b"cgroup.procs"), b"0")


def _places() -> Iterator[tuple[bytes, bytes]]:
    """Yield the directories below which this process may make groups, the best kind first."""
    for kind, path in sorted(_of_process(os.getpid(), _mounted())):
        found = _OURS.match(path)
        yield kind, found[1] if found else path


def _mounted() -> dict[bytes, tuple[bytes, bytes]]:
    """Return which directory of each hierarchy that has a freezer is mounted, and where."""
    found: dict[bytes, tuple[bytes, bytes]] = {}
    for mount in read_mounts():
        if mount.fstype == "cgroup2":
            found.setdefault(V2, (mount.root, mount.point))
        elif mount.fstype == "cgroup" and V1 in mount.super_options.split(b","):
            found.setdefault(V1, (mount.root, mount.point))
    return found


def _of_process(
    pid: int, mounted: Mapping[bytes, tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the directories of the cgroups that a process is in and that have a freezer."""
    try:
        lines = proc.read(b"/proc/%d/cgroup" % pid).splitlines()
    except proc.GONE:
        return
    for line in lines:
        number, controllers, path = line.split(b":", 2)
        kind = V2 if number == b"0" else V1 if V1 in controllers.split(b",") else b""
        root, point = mounted.get(kind, (b"", b""))
        if point and (path + b"/").startswith(root.rstrip(b"/") + b"/"):
            yield kind, os.path.join(point, path[len(root) :].lstrip(b"/")).rstrip(b"/")


def _is_still(path: bytes, deadline: float) -> bool:
    """Wait by the events of a group, which the kernel tells of (POLLPRI)."""
    with open(os.path.join(path, b"cgroup.events"), "rb", buffering=0) as events:
        changed = select.poll()
        changed.register(events, select.POLLPRI)
        while b"frozen 1" not in events.read():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            changed.poll(left * 1000)
            events.seek(0)
        return True


def _is_still_v1(path: bytes, deadline: float) -> bool:
    while proc.read(os.path.join(path, b"freezer.state")) != b"FROZEN\n":
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True


def _content(file: bytes) -> bytes:
    """Return what a file of a group says; nothing where the group is gone."""
    try:
        return proc.read(file)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return b""


def _remove(directory: bytes) -> None:
    with suppress(OSError):  # somebody is in it, or it is gone
        os.rmdir(directory)
