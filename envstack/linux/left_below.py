"""Who stands in a directory that was mounted over: they came before the mount, and do not see it.

The directory is known by the mount that it lies on and by its path there; the mount that covers it
has nothing to do with these processes, so they are none of its holders.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from envstack.linux import proc
from envstack.linux.holders import HOLDS
from envstack.model import Hold, Holder, HoldKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.linux.mountinfo import Mount


def find_left_below(mount: Mount, *, ignore: frozenset[int]) -> tuple[Holder, ...]:
    """Return who has a cwd, a root or an open file in the directory that `mount` covers, by pid.

    `mount` is the lowest at its point. Processes whose id is in `ignore` are passed over, and those
    of other mount namespaces, which have copies of both mounts. Needs root to see all.
    """
    found = []
    for pid in sorted(set(proc.processes()) - ignore):
        # What has ended, or was closed, since it was listed is passed over: see `proc.GONE`.
        with suppress(*proc.GONE):
            holds = tuple(dict.fromkeys(_holds(pid, mount)))[:HOLDS]
            if holds:
                found.append(Holder(pid, proc.command(pid), proc.user(pid), holds))
    return tuple(found)


def _holds(pid: int, mount: Mount) -> Iterator[Hold]:
    for tid in proc.threads(pid):
        for kind, name in ((HoldKind.CWD, b"cwd"), (HoldKind.ROOT, b"root")):
            with suppress(*proc.GONE):
                path = _path_below(b"/proc/%d/%s" % (tid, name), mount)
                if path is not None:
                    yield Hold(kind, path)
    with suppress(*proc.GONE):
        for name in os.listdir(b"/proc/%d/fd" % pid):
            with suppress(*proc.GONE):
                path = _path_below(b"/proc/%d/fd/%s" % (pid, name), mount)
                if path is not None:
                    writable = proc.descriptor(pid, name).writable
                    yield Hold(HoldKind.WRITING if writable else HoldKind.FILE, path)


def _path_below(link: bytes, mount: Mount) -> bytes | None:
    """Return where a link in /proc leads, if that is below `mount`."""
    if proc.mount_of(link) != mount.parent:
        return None
    target = proc.link(link)
    if target is None or not (target + b"/").startswith(mount.point + b"/"):
        return None
    return target
