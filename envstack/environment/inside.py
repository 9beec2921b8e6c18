"""Who is inside a merged tree, and whether an operation may go on although they are."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from envstack.environment.context import visible_mount
from envstack.errors import Held
from envstack.linux.holders import find_holder, find_holders
from envstack.linux.left_below import find_left_below
from envstack.model import HoldKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envstack.linux.mountinfo import Mount
    from envstack.model import Environment, Hold, Holder


_MOUNTS = frozenset({HoldKind.BIND, HoldKind.COPY, HoldKind.MOUNT_INSIDE, HoldKind.OVERLAY})
_LEAVE = "leave the merged tree (cd), or end what is named"


def is_anybody_inside(mount: Mount, ignore: frozenset[int]) -> bool:
    """Tell whether anybody is inside: that takes less than to find all who are."""
    return find_holder(mount, ignore=ignore) is not None


def require_nobody(mount: Mount, ignore: frozenset[int], what: str) -> None:
    """Raise Held if anybody is inside; `what` is the operation, for the message."""
    holders = find_holders(mount, ignore=ignore)
    if holders:
        way_out = _way_out(holders[0]) or _LEAVE
        raise Held(f"cannot {what}: {describe(holders)}", way_out, holders)


def require_strandable(
    mount: Mount, ignore: frozenset[int], what: str, *, force: bool
) -> tuple[Holder, ...]:
    """Return the holders that `force` leaves behind: none without it.

    Raises Held where somebody is inside and `force` is not given, or does not reach: a file open
    for writing and a bind mount would lose data. What is mounted inside is nobody to be left
    behind: the exchange carries it over, or refuses.
    """
    holders = find_holders(mount, ignore=ignore)
    if holders and not force:
        raise Held(
            f"cannot {what}: {describe(holders)}",
            _way_out(holders[0]) or f"{_LEAVE}; --force leaves behind who only looks",
            holders,
        )
    left = tuple(filter(None, (_without_carried(mount, holder) for holder in holders)))
    harmed = tuple(holder for holder in left if not holder.strandable)
    if harmed:
        raise Held(
            f"cannot {what}, not even with --force: {describe(harmed)}",
            _way_out(harmed[0]) or "close what is open for writing and take off what is mounted",
            harmed,
        )
    return left


def _without_carried(mount: Mount, holder: Holder) -> Holder | None:
    """Return a holder without those of its mounts that an exchange of `mount` carries over."""
    if holder.pid is not None:
        return holder
    holds = tuple(hold for hold in holder.holds if not _is_carried(mount, hold))
    return replace(holder, holds=holds) if holds else None


def _is_carried(mount: Mount, hold: Hold) -> bool:
    """Tell a mount inside from one that covers the tree, or lies in another mount of it."""
    is_within = hold.path.startswith(mount.point + b"/")
    return hold.what is HoldKind.MOUNT_INSIDE and is_within


def left_below(env: Environment, ignore: frozenset[int]) -> tuple[Holder, ...]:
    """Return who stands in the project below the mount, if that is over the project."""
    mount = visible_mount(env) if env.over_project else None
    return find_left_below(mount, ignore=ignore) if mount else ()


def _way_out(holder: Holder) -> str:
    """Return the command that ends the hold which `_clause` names, if one does."""
    hold = holder.holds[0]
    if hold.what is HoldKind.LOOP:
        return f"losetup --detach {holder.command}"
    if hold.what is HoldKind.COPY and holder.pid is None:
        return "lsns -t mnt -o NS,NSFS,PATH tells what keeps a namespace without processes"
    if hold.what not in _MOUNTS:
        return ""
    enter = "" if holder.pid is None else f"nsenter --mount --target {holder.pid} "
    return f"{enter}umount {os.fsdecode(hold.path)}"


def describe(holders: Iterable[Holder]) -> str:
    """Return holders as a clause: what the first of them has, and how many more there are."""
    first, *others = holders
    return _clause(first) + (f", and {len(others)} more are inside" if others else "")


def _clause(holder: Holder) -> str:
    hold = holder.holds[0]
    path = repr(os.fsdecode(hold.path))
    match hold.what:
        case HoldKind.UNKNOWN:
            return f"somebody who cannot be named uses {path}"
        case HoldKind.OVERLAY:
            return f"the overlay at {path} has it as a layer"
        case HoldKind.COPY if holder.pid is None:
            return f"a mount namespace without processes has copy {path}"
    who = holder.command if holder.pid is None else f"{holder.command} (pid {holder.pid})"
    return f"{who} has {hold.what} {path}"
