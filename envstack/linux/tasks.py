"""The threads that must be asked where they are, and the mount namespaces that they are in."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envstack.linux import proc
from envstack.linux.mountinfo import read_mounts
from envstack.linux.namespaces import tables_without_process

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from envstack.linux.mountinfo import Mount

NOBODY = 0
"""Stands for the process that a namespace without any is not in: the number is the kernel's own."""


@dataclass(frozen=True, slots=True)
class Task:
    """A thread, and the mounts that its program, its root and its cwd lie on."""

    pid: int
    tid: int
    program: int
    root: int
    cwd: int


def tasks_of(pid: int) -> list[Task]:
    """Return the threads of a process that live and are not alike.

    None of a kernel thread, which has no program. What is gone, or is protected from us, is passed
    over: see `proc.GONE`.
    """
    found = []
    with suppress(*proc.GONE):
        for tid in proc.distinct_threads(pid):
            try:
                program = proc.mount_of(b"/proc/%d/exe" % tid)
                root = proc.mount_of(b"/proc/%d/root" % tid)
                cwd = proc.mount_of(b"/proc/%d/cwd" % tid)
            except proc.GONE:
                continue
            found.append(Task(pid, tid, program, root, cwd))
    return found


@dataclass(slots=True)
class Survey:
    """The threads of each process, and the mounts of other namespaces by a pid of each.

    Those of namespaces that no process is in stand under `NOBODY`.
    """

    groups: list[list[Task]] = field(default_factory=list)
    foreign: dict[int, list[Mount]] = field(default_factory=dict)

    @property
    def tables(self) -> Iterable[Sequence[Mount]]:
        """The mount tables of the other namespaces."""
        return self.foreign.values()


def survey(own: Sequence[Mount], ignore: frozenset[int]) -> Survey:
    """Look at all processes but those whose id is in `ignore`; `own` is this namespace's table.

    Whoever is in a mount namespace has a root directory on one of its mounts. Below a changed root
    a table shows but a part, so each different root is asked. Namespaces that only processes to be
    ignored are in are passed over with them.
    """
    known = {mount.id for mount in own}
    ours = frozenset(known)
    views: set[tuple[int, bytes | None]] = set()
    namespaces = {proc.namespace(os.getpid())}
    found = Survey()

    def add(pid: int, mounts: Iterable[Mount]) -> None:
        new = [mount for mount in mounts if mount.id not in known]
        known.update(mount.id for mount in new)
        found.foreign[pid] = found.foreign.get(pid, []) + new

    for pid in proc.processes():
        if pid in ignore:
            with suppress(*proc.GONE):
                namespaces.add(proc.namespace(pid))
            continue
        group = tasks_of(pid)
        if group:
            found.groups.append(group)
        for task in group:
            if task.root in ours:
                continue
            # It may be gone: then another process of its namespace speaks for it.
            with suppress(*proc.GONE):
                view = task.root, proc.link(b"/proc/%d/root" % task.tid)
                if view not in views:
                    add(pid, read_mounts(task.tid))
                    namespaces.add(proc.namespace(task.tid))
                    views.add(view)
    for mounts in tables_without_process(namespaces):
        add(NOBODY, mounts)
    return found
