"""Who is inside a merged tree, and whether an operation may go on although they are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.environment.context import visible_mount
from envstack.errors import Held
from envstack.linux.holders import find_holders
from envstack.linux.left_below import find_left_below
from envstack.model import HoldKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envstack.linux.mountinfo import Mount
    from envstack.model import Environment, Holder


_MOUNTS = frozenset({HoldKind.BIND, HoldKind.COPY, HoldKind.MOUNT_INSIDE})
_LEAVE = "leave the merged tree (cd), or end what is named"


def require_nobody(mount: Mount, ignore: frozenset[int], what: str) -> None:
    """Raise Held if anybody is inside; `what` is the operation, for the message."""
    holders = find_holders(mount, ignore=ignore)
    if holders:
        way_out = _unmounting(holders[0]) or _LEAVE
        raise Held(f"cannot {what}: {describe(holders)}", way_out, holders)


def require_strandable(
    mount: Mount, ignore: frozenset[int], what: str, *, force: bool
) -> tuple[Holder, ...]:
    """Return the holders that `force` leaves behind: none without it.

    Raises Held where somebody is inside and `force` is not given, or does not reach: a file open
    for writing, a bind mount, a mount inside would lose data.
    """
    holders = find_holders(mount, ignore=ignore)
    if holders and not force:
        raise Held(
            f"cannot {what}: {describe(holders)}",
            _unmounting(holders[0]) or f"{_LEAVE}; --force leaves behind who only looks",
            holders,
        )
    harmed = tuple(holder for holder in holders if not holder.strandable)
    if harmed:
        raise Held(
            f"cannot {what}, not even with --force: {describe(harmed)}",
            _unmounting(harmed[0]) or "close what is open for writing and take off what is mounted",
            harmed,
        )
    return holders


def left_below(env: Environment, ignore: frozenset[int]) -> tuple[Holder, ...]:
    """Return who stands in the project below the mount, if that is over the project."""
    mount = visible_mount(env) if env.over_project else None
    return find_left_below(mount, ignore=ignore) if mount else ()


def _unmounting(holder: Holder) -> str:
    """Return the command that takes off the mount which `_clause` names, if it names one."""
    hold = holder.holds[0]
    if hold.what not in _MOUNTS:
        return ""
    enter = "" if holder.pid is None else f"nsenter --mount --target {holder.pid} "
    return f"{enter}umount {os.fsdecode(hold.path)}"


def describe(holders: Iterable[Holder]) -> str:
    """Return holders as a clause: what the first of them has, and how many more there are."""
    first, *others = holders
    return _clause(first) + (f", and {len(others)} more are inside" if others else "")


def _clause(holder: Holder) -> str:
    who = holder.command if holder.pid is None else f"{holder.command} (pid {holder.pid})"
    hold = holder.holds[0]
    return f"{who} has {hold.what} {os.fsdecode(hold.path)!r}"
