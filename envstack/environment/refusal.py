"""Which layer makes the kernel refuse an overlay, found by trying each one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.errors import Unsupported
from envstack.linux.mountinfo import reached_at, read_mounts
from envstack.overlay.mount import Overlay

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envstack.environment.context import Context


def refused_layer(ctx: Context, lowers: Iterable[bytes]) -> Unsupported | None:
    """Return the error for the first of `lowers` that overlayfs cannot take.

    None where it takes each, or not even the store's own directories: then no layer is at fault.
    """
    layers, staging = ctx.store.layers.places
    if not _serves(ctx, layers, staging):
        return None
    for lower in lowers:
        if not _serves(ctx, lower, staging):
            return _refused(os.path.realpath(lower))
    return None


def _serves(ctx: Context, one: bytes, other: bytes) -> bool:
    try:
        os.close(ctx.mounts.build(Overlay(b"envstack-try", (one, other)), other))
    except Unsupported:
        return False
    return True


def _refused(directory: bytes) -> Unsupported:
    mount = reached_at(read_mounts(), directory)
    kind = f" ({mount.fstype})" if mount else ""
    return Unsupported(
        f"the kernel takes no layer from the file system of {os.fsdecode(directory)}{kind}",
        "name another directory, or take a private copy of it (copy: true)",
    )
