"""Who is inside a mounted overlay: the read-only scan behind `Held`.

Owns the rule of what a holder is. It changes nothing and locks nothing: by the time it answers
somebody may have come or gone, so what must hold is left to the kernel's own locks.

Whom no list names is found by the kernel's own count (`usage`), and told as unknown: a descriptor
on its way through a Unix socket or registered with io_uring, a process of a pid namespace that is
not below ours. Where the count does not reach, nobody tells of such: what goes by a mount that was
detached lazily, or by a copy that follows this one. Nor of a mapping, if that is all a process has,
by a bind mount that was detached lazily, or of a namespace that the process has left; of an overlay
whose layer this one is under a name that leads elsewhere now; before Linux 6.12 of a namespace that
no process is in. A swap file cannot be on an overlay at all (EINVAL).
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from envstack.linux import proc, usage
from envstack.linux.attached import held_by_mounts
from envstack.linux.loops import loops_on
from envstack.linux.mountinfo import read_mounts
from envstack.linux.opened import Opened
from envstack.linux.overlaid import overlaid_on
from envstack.linux.superblock import Superblock
from envstack.linux.tasks import NOBODY, survey, tasks_of
from envstack.model import STRANDABLE, Hold, Holder, HoldKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from envstack.linux.mountinfo import Mount
    from envstack.linux.tasks import Task

HOLDS = 20
"""How many holds of one holder are told at most; those that would be harmed come first."""

_BY_MOUNT = frozenset({HoldKind.BIND, HoldKind.COPY, HoldKind.MOUNT_INSIDE, HoldKind.OVERLAY})
_UNCOUNTED = frozenset({HoldKind.INOTIFY, HoldKind.OVERLAY})
"""By these a mount is not in use as the kernel counts it."""

_CAME_BACK = "nodiratime"
"""Marks a mount that was put back as a copy: whoever was on the first one may be there still, on a
mount that no table lists. An overlay has no access times of directories to speak of."""

_MOUNT, _UNKNOWN = "mount", "unknown"

_Owner = int | str
"""A process, or the name of what holds without one."""


def find_holders(mount: Mount, *, ignore: frozenset[int]) -> tuple[Holder, ...]:
    """Return who holds the overlay `mount` of this mount namespace, DESIGN section 6 rule 2.

    First comes what holds without a process, then processes by pid. Those whose id is in `ignore`
    are passed over, and with them namespaces that nobody else is in. A copy of the mount in another
    namespace is named by a process there, and is no holder where propagation takes it along with
    the original. A path is as the kernel shows it, the mount's own where it shows none (an inotify
    watch, a path longer than it can tell). Needs root to see all, and `mount` to be there still:
    the device number of a superblock that is gone is soon another's.
    """
    found = _collected(mount, ignore)
    if not _counted(found) and _is_used_otherwise(mount, ignore):
        found = _collected(mount, ignore)  # who came in meanwhile has a name
        if not _counted(found):
            found[_UNKNOWN][Hold(HoldKind.UNKNOWN, mount.point)] = None
    owners = sorted(found, key=lambda owner: (owner, "") if isinstance(owner, int) else (0, owner))
    described = (_described(owner, found[owner]) for owner in owners)
    return tuple(holder for holder in described if holder is not None)


def find_holder(mount: Mount, *, ignore: frozenset[int]) -> Holder | None:
    """Return one of those whom `find_holders` returns, whoever is found first, or None.

    To know whether anybody is inside takes less than to know all that everybody holds there.
    """
    uncounted = None
    for owner, hold in _Search(mount, ignore).holds():
        holder = _described(owner, (hold,))
        if holder is not None and hold.what not in _UNCOUNTED:
            return holder
        uncounted = uncounted or holder
    if uncounted is None and _is_used_otherwise(mount, ignore):
        return next(iter(find_holders(mount, ignore=ignore)), None)
    return uncounted


_Found = defaultdict[_Owner, dict[Hold, None]]


def _collected(mount: Mount, ignore: frozenset[int]) -> _Found:
    found: _Found = defaultdict(dict)
    for owner, hold in _Search(mount, ignore).holds():
        found[owner][hold] = None
    return found


def _counted(found: _Found) -> bool:
    """Tell whether anybody was found whom the kernel counts as a user of the mount."""
    return any(hold.what not in _UNCOUNTED for holds in found.values() for hold in holds)


def _is_used_otherwise(mount: Mount, ignore: frozenset[int]) -> bool:
    """Tell whether somebody uses the mount, where none was found but those who are to be ignored.

    While one of those uses it nobody can tell.
    """
    return not _is_used_by(ignore, mount) and usage.is_used(mount)


def _is_used_by(pids: Iterable[int], mount: Mount) -> bool:
    """Tell whether one of these processes is counted as a user of the mount.

    Of this very mount: the daemon keeps another one of the same superblock.
    """
    opened = Opened(Superblock(mount))
    for group in map(tasks_of, pids):
        for task in group:
            if mount.id in {task.cwd, task.root, task.program, *opened.mounts(task)}:
                return True
        if next(opened.mappings(group, set()), None) is not None:
            return True
    return False


class _Search:
    """One look at everything, the cheapest first."""

    def __init__(self, mount: Mount, ignore: frozenset[int]) -> None:
        self._mount = mount
        self._own = read_mounts()
        self._survey = survey(self._own, ignore)
        superblock = Superblock(mount)
        for mounts in (self._own, *self._survey.tables):
            superblock.learn(mounts)
        self._opened = Opened(superblock)

    def holds(self) -> Iterator[tuple[_Owner, Hold]]:
        """Yield everything that is held; of one owner not all need come in a row."""
        for pid, hold in held_by_mounts(self._mount, self._own, self._survey.foreign):
            yield _MOUNT if pid is None else _UNKNOWN if pid == NOBODY else pid, hold
        yield from loops_on(self._mount.device)
        yield from self._overlaid()
        to_map = self._who_may_map()  # as it is now: who comes later has come in meanwhile
        programs: dict[int, set[bytes]] = defaultdict(set)
        for group in self._survey.groups:
            pid = group[0].pid
            for hold in (*self._opened.places(group), *self._opened.files(group)):
                if hold.what is HoldKind.PROGRAM:
                    programs[pid].add(hold.path)
                yield pid, hold
        for group in to_map:
            pid = group[0].pid
            for hold in self._opened.mappings(group, programs[pid]):
                yield pid, hold

    def _overlaid(self) -> Iterator[tuple[_Owner, Hold]]:
        """Yield the overlays that have this one as a layer, each once, wherever it is mounted."""
        seen: set[str] = set()
        tables: list[tuple[_Owner, list[Mount], bytes]] = [(_MOUNT, self._own, b"")]
        for pid, mounts in self._survey.foreign.items():
            if pid != NOBODY:
                tables.append((pid, mounts, b"/proc/%d/root" % pid))
        for owner, table, root in tables:
            for device, hold in overlaid_on(self._mount, table, root):
                if device not in seen:
                    seen.add(device)
                    yield owner, hold

    def _who_may_map(self) -> list[list[Task]]:
        """Return the processes that may have a mapping: to look for them takes the most.

        What is mapped counts as a use of the mount by which it was opened. There must be no other:
        none that a table lists, and none that somebody took away from its place.
        """
        others = [mount for mount in self._own if mount.id != self._mount.id]
        was_taken_away = _CAME_BACK in self._mount.options
        if was_taken_away or self._has(others) or not usage.is_idle(self._mount):
            return self._survey.groups
        if not self._has(mount for mounts in self._survey.tables for mount in mounts):
            return []
        ours = {mount.id for mount in self._own}
        groups = self._survey.groups
        return [group for group in groups if any(task.root not in ours for task in group)]

    def _has(self, mounts: Iterable[Mount]) -> bool:
        return any(mount.device == self._mount.device for mount in mounts)


def _described(owner: _Owner, holds: Iterable[Hold]) -> Holder | None:
    """Return the holder, or None for a process that has ended by now, unless mounts remain."""
    told = tuple(sorted(holds, key=_rank)[:HOLDS])
    if isinstance(owner, str):
        return Holder(None, owner, "", told)
    with suppress(*proc.GONE):
        return Holder(owner, proc.command(owner), proc.user(owner), told)
    told = tuple(hold for hold in told if hold.what in _BY_MOUNT)
    return Holder(None, _MOUNT, "", told) if told else None


def _rank(hold: Hold) -> int:
    """Say how early a hold is told: what can be carried over comes after what would be harmed."""
    if hold.what in STRANDABLE:
        return 2
    return 1 if hold.what is HoldKind.MOUNT_INSIDE else 0
