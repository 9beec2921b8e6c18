"""Overlays that have a directory of another overlay as a layer, as far as their mounts tell.

Such a layer is held by a mount of the kernel's own that no table lists. It is known by the path
that the mount was made with, which may lead elsewhere since; so of the two mounts the one that is
to be the layer must be the older one, as the kernel tells since Linux 6.8 (STATX_MNT_ID_UNIQUE).
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from envstack.linux import proc
from envstack.linux.mountinfo import reached_at, unescaped
from envstack.linux.syscalls import unique_mount_id
from envstack.model import Hold, HoldKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from envstack.linux.mountinfo import Mount

_SEPARATOR = re.compile(rb"(?<!\\):")
_SPELT = re.compile(rb"\\(.)")
_ONE, _MANY = (b"lowerdir+", b"datadir+"), b"lowerdir"


def overlaid_on(mount: Mount, table: Sequence[Mount], root: bytes) -> Iterator[tuple[str, Hold]]:
    """Yield the device of each overlay in `table` that has a layer on the superblock of `mount`.

    With it comes where that overlay is mounted. `root` is the way to the root directory that the
    paths of the table begin at.
    """
    points = [each.point for each in table if each.device == mount.device]
    if not points:
        return
    for other in table:
        if other.fstype == "overlay" and other.device != mount.device:
            lowers = _lowers(other.super_options)
            if any(_reaches(table, lower, points, mount.device) for lower in lowers):
                with suppress(*proc.GONE):
                    if _is_older(mount.point, root + other.point):
                        yield other.device, Hold(HoldKind.OVERLAY, other.point)


def _lowers(options: bytes) -> Iterator[bytes]:
    for option in options.split(b","):
        key, _, value = option.partition(b"=")
        if key in _ONE:
            yield unescaped(value)
        elif key == _MANY:
            for lower in _SEPARATOR.split(unescaped(value)):
                yield _SPELT.sub(rb"\1", lower)


def _reaches(table: Sequence[Mount], path: bytes, points: Sequence[bytes], device: str) -> bool:
    """Tell whether `path` leads to the superblock; hardly any does so as much as by its name."""
    if not any((path + b"/").startswith(point.rstrip(b"/") + b"/") for point in points):
        return False
    reached = reached_at(table, path)
    return reached is not None and reached.device == device


def _is_older(one: bytes, other: bytes) -> bool:
    ids = unique_mount_id(one), unique_mount_id(other)
    return ids[0] is not None and ids[1] is not None and ids[0] < ids[1]
