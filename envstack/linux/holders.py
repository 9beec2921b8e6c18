"""Who is inside a mounted overlay: the read-only scan behind `Held`.

Owns the rule of what a holder is. It changes nothing and locks nothing: by the time it answers
somebody may have come or gone, so what must hold is left to the kernel's own locks.

Whom no list names is found by the kernel's own count (`usage`), and told as unknown: a descriptor
on its way through a Unix socket or registered with io_uring, a process of a pid namespace that is
not below ours. Nobody tells of these, where the count does not reach: what goes by a mount that was
detached lazily, or by a copy that follows this one; a mapping, if that is all a process has, by a
bind mount that was detached lazily, or of a namespace that the process has left; an overlay that has this one as a layer under a
name that leads elsewhere now; before Linux 6.12 a namespace that no process is in. A swap file
cannot be on an overlay at all (EINVAL).
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

CAME_BACK = "nodiratime"
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
    found = _Search(mount, ignore).run()
    if not _counted(found) and not _holds_itself(mount, ignore) and usage.is_used(mount):
        found = _Search(mount, ignore).run()  # who came in meanwhile has a name
        if not _counted(found):
            found[_UNKNOWN][Hold(HoldKind.UNKNOWN, mount.point)] = None
    owners = sorted(found, key=lambda owner: (owner, "") if isinstance(owner, int) else (0, owner))
    described = (_described(owner, found[owner]) for owner in owners)
    return tuple(holder for holder in described if holder is not None)


_Found = defaultdict[_Owner, dict[Hold, None]]


def _counted(found: _Found) -> bool:
    """Tell whether anybody was found whom the kernel counts as a user of the mount."""
    return any(hold.what not in _UNCOUNTED for holds in found.values() for hold in holds)


def _holds_itself(mount: Mount, ignore: frozenset[int]) -> bool:
    """Tell whether one of those who are to be ignored is counted."""
    superblock = Superblock(mount)
    superblock.learn(read_mounts())
    opened = Opened(superblock)
    groups = (tasks_of(pid) for pid in ignore)
    holds = (hold for group in groups for hold in _held_by_process(opened, group))
    return any(hold.what not in _UNCOUNTED for hold in holds)


class _Search:
    """One look at everything."""

    def __init__(self, mount: Mount, ignore: frozenset[int]) -> None:
        self._mount = mount
        self._own = read_mounts()
        self._survey = survey(self._own, ignore)
        superblock = Superblock(mount)
        for mounts in (self._own, *self._survey.tables):
            superblock.learn(mounts)
        self._opened = Opened(superblock)

    def run(self) -> _Found:
        found: _Found = defaultdict(dict)
        for owner, hold in self._without_process():
            found[owner][hold] = None
        here = _held_but_by_mapping if self._is_unmapped() else _held_by_process
        copies = (mount for mounts in self._survey.tables for mount in mounts)
        elsewhere = _held_by_process if self._has(copies) else here
        ours = {mount.id for mount in self._own}
        for group in self._survey.groups:
            look = here if all(task.root in ours for task in group) else elsewhere
            holds = dict.fromkeys(look(self._opened, group))
            if holds:
                found[group[0].pid] |= holds
        return found

    def _without_process(self) -> Iterator[tuple[_Owner, Hold]]:
        for pid, hold in held_by_mounts(self._mount, self._own, self._survey.foreign):
            yield _MOUNT if pid is None else _UNKNOWN if pid == NOBODY else pid, hold
        yield from loops_on(self._mount.device)

    def _is_unmapped(self) -> bool:
        """Tell whether nobody of this namespace has a mapping: to look for them takes the most.

        What is mapped counts as a use of the mount by which it was opened. There must be no other:
        none that a table lists, and none that somebody took away from its place.
        """
        others = [mount for mount in self._own if mount.id != self._mount.id]
        was_taken_away = CAME_BACK in self._mount.options
        return not was_taken_away and not self._has(others) and usage.is_idle(self._mount)

    def _has(self, mounts: Iterable[Mount]) -> bool:
        return any(mount.device == self._mount.device for mount in mounts)


def _held_by_process(opened: Opened, group: list[Task]) -> Iterator[Hold]:
    """Yield in which ways the threads of one process hold the superblock."""
    found = list(_held_but_by_mapping(opened, group))
    yield from found
    programs = {hold.path for hold in found if hold.what is HoldKind.PROGRAM}
    yield from opened.mappings(group, programs)


def _held_but_by_mapping(opened: Opened, group: list[Task]) -> Iterator[Hold]:
    yield from opened.places(group)
    yield from opened.files(group)


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
