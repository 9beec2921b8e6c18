"""The mount table of a mount namespace: reading it, finding one's way in it, waiting for changes.

Owns the format of /proc/PID/mountinfo (proc_pid_mountinfo(5)). It mounts nothing, follows parent
ids rather than the order of lines, and knows of no file system in particular.
"""

from __future__ import annotations

import errno
import os
import re
import select
import threading
from collections import defaultdict
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ESCAPE = re.compile(rb"\\([0-7]{3})")
_READS = 8
"""How often a table that changes under the reader is read again before the last one counts."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo.

    `device` is the superblock's, as "MAJOR:MINOR"; `root` the directory of that file system which
    lies at `point`. `optional` holds the propagation tags ("shared:N", "master:N"). Octal escapes
    are undone but in `super_options`, which stays as the kernel wrote it: there they tell a comma
    in a value from one between two options.
    """

    id: int
    parent: int
    device: str
    root: bytes
    point: bytes
    options: frozenset[str]
    optional: tuple[str, ...]
    fstype: str
    source: bytes
    super_options: bytes


def read_mounts(pid: int | Literal["self"] = "self") -> list[Mount]:
    """Return the mounts that process (or thread) `pid` can reach from its root directory.

    A table that changed while it was read is read again, up to a bound. Raises ProcessLookupError
    or FileNotFoundError where there is no such process, a zombie included.
    """
    try:
        # Unbuffered, so that the poll below speaks of all that was read.
        with FileIO(f"/proc/{pid}/mountinfo") as table:
            return parse_mounts(_read_unchanged(table))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # What the kernel says of a zombie, which has no mount namespace any more.
        raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended") from error


def _read_unchanged(table: FileIO) -> bytes:
    poll = select.poll()
    poll.register(table, select.POLLPRI)
    content = table.readall()
    for _ in range(_READS):
        if not poll.poll(0):
            break
        table.seek(0)
        content = table.readall()
    return content


def parse_mounts(content: bytes) -> list[Mount]:
    """Return the mounts that the text of a mountinfo file lists, in its order."""
    options: dict[bytes, frozenset[str]] = {}
    return [_parse_line(line, options) for line in content.split(b"\n") if line]


def _parse_line(line: bytes, options: dict[bytes, frozenset[str]]) -> Mount:
    """`options` remembers option sets: a table of thousands has but a few different ones."""
    left, _, right = line.partition(b" - ")
    # A field may be empty (a mount without a source), so each single blank separates.
    number, parent, device, root, point, words, *optional = left.split(b" ")
    fstype, source, super_options = right.split(b" ", 2)
    if words not in options:
        options[words] = frozenset(words.decode().split(","))
    return Mount(
        int(number),
        int(parent),
        device.decode(),
        unescaped(root),
        unescaped(point),
        options[words],
        tuple([tag.decode() for tag in optional]),
        os.fsdecode(unescaped(fstype)),
        unescaped(source),
        super_options,
    )


def unescaped(field: bytes) -> bytes:
    """Return a field, or an option of those in `super_options`, without its octal escapes."""
    if b"\\" not in field:
        return field
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field)


def stack_at(mounts: Iterable[Mount], point: bytes) -> list[Mount]:
    """Return the mounts stacked exactly at the absolute path `point`, bottom first.

    Only those that a walk of that path passes through: a mount at the same path that is hidden
    because something was mounted over one of its parents later is not among them. The walk does
    what path_resolution(7) has the kernel do: in each mount it takes the first child on its way.
    """
    children = _children(mounts)
    ways: Sequence[Mount] = _tops(children)
    found: list[Mount] = []
    while on_way := [mount for mount in ways if _is_on_way(mount.point, point)]:
        step = min(on_way, key=lambda mount: len(mount.point))
        if step.point == point:
            found.append(step)
        ways = children.get(step.id, ())
    return found


def topmost_at(mounts: Iterable[Mount], point: bytes) -> Mount | None:
    """Return the mount that is visible at exactly the mount point `point`, if there is one."""
    stack = stack_at(mounts, point)
    return stack[-1] if stack else None


def reached_at(mounts: Sequence[Mount], point: bytes) -> Mount | None:
    """Return the mount that a walk of the absolute path `point` ends in, if one is at or above."""
    while (top := topmost_at(mounts, point)) is None and point != b"/":
        point = os.path.dirname(point)
    return top


def mounts_inside(mounts: Iterable[Mount], mount: Mount) -> list[Mount]:
    """Return what is attached anywhere in the tree of `mount`, by parent ids, at any depth.

    A mount on top of the root of `mount` covers its tree rather than lies in it: that one, and
    what is attached to it, is what `mounts_over` returns.
    """
    children = _children(mounts)
    inside = [child for child in children.get(mount.id, ()) if child.point != mount.point]
    return _with_descendants(children, inside)


def mounts_over(mounts: Iterable[Mount], mount: Mount) -> list[Mount]:
    """Return what covers the root of `mount`, and all that is attached to it, by parent ids."""
    children = _children(mounts)
    over = [child for child in children.get(mount.id, ()) if child.point == mount.point]
    return _with_descendants(children, over)


def _children(mounts: Iterable[Mount]) -> dict[int, list[Mount]]:
    children: dict[int, list[Mount]] = defaultdict(list)
    for mount in mounts:
        if mount.parent != mount.id:
            children[mount.parent].append(mount)
        else:  # the initial root file system is its own parent: keep it as a top
            children[0].append(mount)
    return dict(children)


def _tops(children: dict[int, list[Mount]]) -> list[Mount]:
    """Return the mounts whose parent is not in the table, as it is out of the root's reach."""
    known = {mount.id for siblings in children.values() for mount in siblings}
    return [mount for parent in children.keys() - known for mount in children[parent]]


def _is_on_way(point: bytes, path: bytes) -> bool:
    return point in (path, b"/") or path.startswith(point + b"/")


def _with_descendants(children: dict[int, list[Mount]], first: list[Mount]) -> list[Mount]:
    found = list(first)
    for mount in found:  # it grows while we go
        found += children.get(mount.id, ())
    return found


class MountTableWatch:
    """Tells when the mount table of this process's mount namespace changes; a context manager.

    The kernel keeps, for each open mountinfo file, up to which change its owner was told
    (proc_pid_mounts(5)), so a change between two calls of `wait`, or before the first, is not
    missed. Several changes may be told as one.
    """

    def __init__(self) -> None:
        self._stop = FileIO(os.eventfd(0), "w")
        self._table = FileIO("/proc/self/mountinfo")
        self._waiting = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, let a waiting thread return, then close."""
        self.stop()
        with self._waiting:
            self._table.close()
            self._stop.close()

    def wait(self) -> bool:
        """Block until the table has changed and return True, or False once `stop` was called.

        Raises ValueError after the end of the context.
        """
        with self._waiting:
            poll = select.poll()
            poll.register(self._table, select.POLLPRI)
            poll.register(self._stop, select.POLLIN)
            return self._stop.fileno() not in dict(poll.poll())

    def stop(self) -> None:
        """Make `wait` return False, now and from now on; from any thread, inside the context."""
        self._stop.write((1).to_bytes(8, "little"))
