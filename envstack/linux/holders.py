"""Who is inside a mounted overlay: the read-only scan behind `Held`.

Owns the rule of what a holder is. It changes nothing and locks nothing: by the time it answers
somebody may have come or gone, so what must hold is left to the kernel's own locks.

Not visible from /proc, and therefore not found: descriptors on their way through a Unix socket or
registered with io_uring, loop devices and swap files, another overlay that has this one as a layer,
mount namespaces that no process is in, processes of a pid namespace that is not below ours.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.linux import proc
from envstack.linux.attached import held_by_mounts
from envstack.linux.mountinfo import read_mounts
from envstack.linux.superblock import Superblock
from envstack.model import STRANDABLE, Hold, Holder, HoldKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from envstack.linux.mountinfo import Mount

HOLDS = 20
"""How many holds of one holder are told at most; those that would be harmed come first."""

_BY_MOUNT = frozenset({HoldKind.BIND, HoldKind.COPY, HoldKind.MOUNT_INSIDE})

_MAPS_TELL_OVERLAYS = (6, 8)
"""Since this Linux, maps has the device of the overlay; before, that of the layer's file system."""


def find_holders(mount: Mount, *, ignore: frozenset[int]) -> tuple[Holder, ...]:
    """Return who holds the overlay `mount` of this mount namespace, DESIGN section 6 rule 2.

    First comes what is mounted in this namespace, without a pid, then processes by pid. Processes
    whose id is in `ignore` are passed over, and with them namespaces that nobody else is in. A copy
    of the mount in another namespace is named by a process there, and is no holder where
    propagation takes it along with the original. A path is as the kernel shows it, the mount's own
    where it shows none (an inotify watch, a path longer than it can tell). Needs root to see all,
    and `mount` to be there still: the device number of a superblock that is gone is soon another's.
    """
    own = read_mounts()
    tasks, foreign = _survey(own, ignore)
    superblock = Superblock(mount)
    for mounts in (own, *foreign.values()):
        superblock.learn(mounts)
    found: dict[int | None, dict[Hold, None]] = defaultdict(dict)
    for pid, hold in held_by_mounts(mount, own, foreign):
        found[pid][hold] = None
    scan = _Scan(superblock)
    for group in tasks:
        holds = dict.fromkeys(scan.holds(group))
        if holds:
            found[group[0].pid] |= holds
    described = (_described(pid, found[pid]) for pid in sorted(found, key=lambda pid: pid or 0))
    return tuple(holder for holder in described if holder is not None)


@dataclass(frozen=True, slots=True)
class _Task:
    """A thread, and the mounts that its program, its root and its cwd lie on."""

    pid: int
    tid: int
    program: int
    root: int
    cwd: int


def _survey(
    own: list[Mount], ignore: frozenset[int]
) -> tuple[list[list[_Task]], dict[int, list[Mount]]]:
    """Return the threads of each process, and the mounts of other namespaces by a pid of each.

    Whoever is in a mount namespace has a root directory on one of its mounts. Below a changed root
    a table shows but a part, so each different root is asked.
    """
    known = {mount.id for mount in own}
    ours = frozenset(known)
    seen: set[tuple[int, bytes | None]] = set()
    groups: list[list[_Task]] = []
    foreign: dict[int, list[Mount]] = {}
    for pid in proc.processes():
        if pid in ignore:
            continue
        group = _tasks(pid)
        if group:
            groups.append(group)
        for task in group:
            if task.root in ours:
                continue
            # It may be gone: then another process of its namespace speaks for it.
            with suppress(*proc.GONE):
                view = task.root, proc.link(b"/proc/%d/root" % task.tid)
                if view not in seen:
                    mounts = [new for new in read_mounts(task.tid) if new.id not in known]
                    known.update(mount.id for mount in mounts)
                    foreign[pid] = foreign.get(pid, []) + mounts
                    seen.add(view)
    return groups, foreign


def _tasks(pid: int) -> list[_Task]:
    """Return the living threads of a process; none of a kernel thread, which has no program."""
    found = []
    # Here and below, what is gone, or is protected from us, is passed over: see `proc.GONE`.
    with suppress(*proc.GONE):
        for tid in proc.threads(pid):
            with suppress(*proc.GONE):
                links = [b"/proc/%d/%s" % (tid, name) for name in (b"exe", b"root", b"cwd")]
                found.append(_Task(pid, tid, *map(proc.mount_of, links)))
    return found


class _Scan:
    """Looks at processes one after the other; what is common to all is asked for once."""

    def __init__(self, superblock: Superblock) -> None:
        self._superblock = superblock
        major, minor = map(int, superblock.device.split(":"))
        self._in_maps = b" %02x:%02x " % (major, minor)
        release = os.uname().release.split(".")
        self._maps_tell = (int(release[0]), int(release[1])) >= _MAPS_TELL_OVERLAYS
        self._sockets: dict[bytes | None, dict[int, bytes]] = {}

    def holds(self, tasks: list[_Task]) -> Iterator[Hold]:
        """Yield in which ways the threads of one process hold the superblock."""
        places = [hold for task in tasks for hold in self._places(task)]
        yield from places
        seen: list[list[bytes]] = []
        for task in tasks:
            with suppress(*proc.GONE):
                # Threads share one table of descriptors, but for the odd one that unshared it.
                names = os.listdir(b"/proc/%d/fd" % task.tid)
                if names not in seen:
                    seen.append(names)
                    yield from self._files(task, names)
        for task in tasks:
            with suppress(*proc.GONE):
                content = proc.read(b"/proc/%d/maps" % task.tid)
                if content:  # else this thread has ended; the memory is common to all
                    for hold in self._mappings(task, content):
                        # A program is mapped, of course.
                        if Hold(HoldKind.PROGRAM, hold.path) not in places:
                            yield hold
                    break

    def _places(self, task: _Task) -> Iterator[Hold]:
        for kind, mount, name in (
            (HoldKind.CWD, task.cwd, b"cwd"),
            (HoldKind.ROOT, task.root, b"root"),
            (HoldKind.PROGRAM, task.program, b"exe"),
        ):
            with suppress(*proc.GONE):
                path = b"/proc/%d/%s" % (task.tid, name)
                if self._superblock.has(mount, path):
                    yield Hold(kind, self._shown(path))

    def _files(self, task: _Task, names: list[bytes]) -> Iterator[Hold]:
        for name in names:
            with suppress(*proc.GONE):
                path = b"/proc/%d/fd/%s" % (task.tid, name)
                mount = proc.mount_of(path)
                belongs = self._superblock.knows(mount)
                if belongs is False:
                    continue
                if belongs is None:
                    target = proc.link(path)
                    if target is not None and not target.startswith(b"/"):
                        yield from self._special(task, name, target)
                        continue
                if self._superblock.has(mount, path):
                    yield from self._open_file(task, name, path)

    def _open_file(self, task: _Task, name: bytes, path: bytes) -> Iterator[Hold]:
        opened = proc.descriptor(task.tid, name)
        shown = self._shown(path)
        # A FIFO or a device takes no bytes to the layer, whoever writes to it.
        writing = opened.writable and stat.S_ISREG(os.stat(path).st_mode)
        yield Hold(HoldKind.WRITING if writing else HoldKind.FILE, shown)
        if opened.locked:
            yield Hold(HoldKind.LOCK, shown)

    def _special(self, task: _Task, name: bytes, target: bytes) -> Iterator[Hold]:
        """Judge a descriptor that is no file: an inotify instance, a Unix socket bound to a path.

        A relative path is tried at the cwd, which may have changed since bind(2): a socket may
        go unseen for that, or for a path made anew by somebody else be seen wrongly.
        """
        if target == b"anon_inode:inotify":
            if proc.watches(task.tid, name, self._superblock.device):
                yield Hold(HoldKind.INOTIFY, self._superblock.point)
            return
        inode = proc.socket_inode(target)
        bound = None if inode is None else self._bound(task).get(inode)
        if bound is not None:
            base = b"root" if bound.startswith(b"/") else b"cwd/"
            path = b"/proc/%d/%s%s" % (task.tid, base, bound)
            if self._superblock.has(proc.mount_of(path), path):
                yield Hold(HoldKind.SOCKET, bound)

    def _bound(self, task: _Task) -> dict[int, bytes]:
        namespace = proc.link(b"/proc/%d/ns/net" % task.tid)
        if namespace not in self._sockets:
            self._sockets[namespace] = proc.bound_sockets(task.tid)
        return self._sockets[namespace]

    def _mappings(self, task: _Task, content: bytes) -> Iterator[Hold]:
        if self._maps_tell and self._in_maps not in content:
            return
        for mapping in proc.mappings(content):
            with suppress(*proc.GONE):
                if self._is_mapped_here(task, mapping):
                    writable = mapping.writable and mapping.shared
                    kind = HoldKind.MAPPING_WRITABLE if writable else HoldKind.MAPPING
                    yield Hold(kind, mapping.path)

    def _is_mapped_here(self, task: _Task, mapping: proc.Mapping) -> bool:
        if self._maps_tell:
            return mapping.device == self._superblock.device
        path = b"/proc/%d/map_files/%s" % (task.tid, mapping.range)
        return self._superblock.has(proc.mount_of(path), path)

    def _shown(self, path: bytes) -> bytes:
        target = proc.link(path)
        return self._superblock.point if target is None else target


def _described(pid: int | None, holds: Iterable[Hold]) -> Holder | None:
    """Return the holder, or None for a process that has ended by now, unless mounts remain."""
    told = tuple(sorted(holds, key=lambda hold: hold.what in STRANDABLE)[:HOLDS])
    if pid is not None:
        with suppress(*proc.GONE):
            return Holder(pid, proc.command(pid), proc.user(pid), told)
        told = tuple(hold for hold in told if hold.what in _BY_MOUNT)
    return Holder(None, "mount", "", told) if told else None
