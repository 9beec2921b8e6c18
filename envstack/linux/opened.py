"""What processes have of one superblock: places, descriptors, mappings.

Asks /proc, process after process, and judges by the superblock (`superblock`). Of two lookups that
tell the same it makes the cheaper one: there are thousands of processes.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from envstack.linux import proc
from envstack.model import Hold, HoldKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from envstack.linux.superblock import Superblock
    from envstack.linux.tasks import Task

_MAPS_TELL_OVERLAYS = (6, 8)
"""Since this Linux, maps has the device of the overlay; before, that of the layer's file system."""


class Opened:
    """Looks at processes one after the other; what is common to all is asked for once.

    What is gone, or is protected from us, is passed over: see `proc.GONE`.
    """

    def __init__(self, superblock: Superblock) -> None:
        self._superblock = superblock
        major, minor = map(int, superblock.device.split(":"))
        self._in_maps = b" %02x:%02x " % (major, minor)
        release = os.uname().release.split(".")
        self._maps_tell = (int(release[0]), int(release[1])) >= _MAPS_TELL_OVERLAYS
        self._sockets: dict[bytes | None, dict[int, bytes]] = {}

    def places(self, tasks: Sequence[Task]) -> Iterator[Hold]:
        """Yield the directories and the program that the threads of one process have there."""
        for task in tasks:
            for kind, mount, name in (
                (HoldKind.CWD, task.cwd, b"cwd"),
                (HoldKind.ROOT, task.root, b"root"),
                (HoldKind.PROGRAM, task.program, b"exe"),
            ):
                if self._superblock.knows(mount) is not False:
                    with suppress(*proc.GONE):
                        path = b"/proc/%d/%s" % (task.tid, name)
                        if self._superblock.has(mount, path):
                            yield Hold(kind, self._shown(path))

    def files(self, tasks: Sequence[Task]) -> Iterator[Hold]:
        """Yield what their descriptors are there."""
        for task in tasks:
            with suppress(*proc.GONE):
                for name in os.listdir(b"/proc/%d/fd" % task.tid):
                    path = b"/proc/%d/fd/%s" % (task.tid, name)
                    try:
                        mount = proc.mount_of(path)
                        if self._superblock.knows(mount) is not False:
                            yield from self._file(task, name, path, mount)
                    except proc.GONE:
                        continue

    def mounts(self, task: Task) -> Iterator[int]:
        """Yield the ids of the mounts that the descriptors of a thread are on."""
        with suppress(*proc.GONE):
            for name in os.listdir(b"/proc/%d/fd" % task.tid):
                with suppress(*proc.GONE):
                    yield proc.mount_of(b"/proc/%d/fd/%s" % (task.tid, name))

    def mappings(self, tasks: Sequence[Task], programs: set[bytes]) -> Iterator[Hold]:
        """Yield what is mapped there, but for the `programs` that run: those are, of course."""
        for task in tasks:
            with suppress(*proc.GONE):
                content = proc.read(b"/proc/%d/maps" % task.tid)
                if content:  # else this thread has ended; the memory is common to all
                    found = self._mapped(task, content)
                    yield from (hold for hold in found if hold.path not in programs)
                    break

    def _file(self, task: Task, name: bytes, path: bytes, mount: int) -> Iterator[Hold]:
        if self._superblock.knows(mount) is None:
            target = proc.link(path)
            if target is not None and not target.startswith(b"/"):
                yield from self._special(task, name, target, mount)
                return
        if self._superblock.has(mount, path):
            yield from self._open_file(task, name, path)

    def _open_file(self, task: Task, name: bytes, path: bytes) -> Iterator[Hold]:
        opened = proc.descriptor(task.tid, name)
        shown = self._shown(path)
        # A FIFO or a device takes no bytes to the layer, whoever writes to it.
        writing = opened.writable and stat.S_ISREG(os.stat(path).st_mode)
        yield Hold(HoldKind.WRITING if writing else HoldKind.FILE, shown)
        if opened.locked:
            yield Hold(HoldKind.LOCK, shown)

    def _special(self, task: Task, name: bytes, target: bytes, mount: int) -> Iterator[Hold]:
        """Judge a descriptor that is no file: an inotify instance, a Unix socket bound to a path.

        A relative path is tried at the cwd, which may have changed since bind(2): a socket may
        go unseen for that, or for a path made anew by somebody else be seen wrongly.
        """
        if target.startswith(b"pipe:"):
            self._superblock.rule_out(mount)  # one mount has all pipes, and nothing else
        elif target == b"anon_inode:inotify":
            if proc.watches(task.tid, name, self._superblock.device):
                yield Hold(HoldKind.INOTIFY, self._superblock.point)
        elif (inode := proc.socket_inode(target)) is not None:
            bound = self._bound(task).get(inode)
            if bound is not None:
                base = b"root" if bound.startswith(b"/") else b"cwd/"
                path = b"/proc/%d/%s%s" % (task.tid, base, bound)
                if self._superblock.has(proc.mount_of(path), path):
                    yield Hold(HoldKind.SOCKET, bound)

    def _bound(self, task: Task) -> dict[int, bytes]:
        namespace = proc.link(b"/proc/%d/ns/net" % task.tid)
        if namespace not in self._sockets:
            self._sockets[namespace] = proc.bound_sockets(task.tid)
        return self._sockets[namespace]

    def _mapped(self, task: Task, content: bytes) -> Iterator[Hold]:
        if self._maps_tell and self._in_maps not in content:
            return
        for mapping in proc.mappings(content):
            with suppress(*proc.GONE):
                if self._is_mapped_here(task, mapping):
                    writable = mapping.writable and mapping.shared
                    kind = HoldKind.MAPPING_WRITABLE if writable else HoldKind.MAPPING
                    yield Hold(kind, mapping.path)

    def _is_mapped_here(self, task: Task, mapping: proc.Mapping) -> bool:
        if self._maps_tell:
            return mapping.device == self._superblock.device
        path = b"/proc/%d/map_files/%s" % (task.tid, mapping.range)
        return self._superblock.has(proc.mount_of(path), path)

    def _shown(self, path: bytes) -> bytes:
        target = proc.link(path)
        return self._superblock.point if target is None else target
