"""Who goes on writing to a file that the merged tree does not show any more."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from envstack.linux.holders import find_holders
from envstack.model import HoldKind

if TYPE_CHECKING:
    from collections.abc import Container

    from envstack.linux.mountinfo import Mount
    from envstack.model import Hold, Holder

_WRITES = frozenset({HoldKind.WRITING, HoldKind.MAPPING_WRITABLE, HoldKind.LOOP})
_DELETED = b" (deleted)"
"""What the kernel puts after the path of what has no name any more (proc_pid_fd(5))."""


def orphans(mount: Mount, changed: Container[bytes], ignore: frozenset[int]) -> tuple[Holder, ...]:
    """Return who has files open for writing, or mapped so, that were at `changed` paths.

    A path is relative to the mount. Who sees the mount at another place is not found.
    """
    found = []
    for holder in find_holders(mount, ignore=ignore):
        holds = tuple(hold for hold in holder.holds if _is_orphan(mount, changed, hold))
        if holds:
            found.append(replace(holder, holds=holds))
    return tuple(found)


def _is_orphan(mount: Mount, changed: Container[bytes], hold: Hold) -> bool:
    if hold.what not in _WRITES or not hold.path.endswith(_DELETED):
        return False
    path = os.path.relpath(hold.path.removesuffix(_DELETED), mount.point)
    return path in changed
