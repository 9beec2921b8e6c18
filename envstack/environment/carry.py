"""What is mounted inside a merged tree comes along when its mount is exchanged, or refuses that.

It would be gone with its data, in silence. So the new overlay gets, while it is attached nowhere, a
clone of each such mount with all that is mounted in that one. The clones appear with the new
overlay, the originals vanish with the old mount, and at no instant is there less than one of each.
Killed in between there is either the old mount with the originals, or both, or the new one with
the clones: taking off the old mount takes its own along.

The clones are cut off from mount propagation first: of two mounts of one peer group the detaching
of one takes what is mounted inside it out of the other too. Under a shared mount they become
shared again, each by itself, when the new overlay is attached there.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

from envstack.environment.beneath import SOURCE
from envstack.errors import Held
from envstack.linux.mountinfo import mounts_inside, read_mounts, topmost_at
from envstack.linux.syscalls import mount_id
from envstack.model import Hold, Holder, HoldKind
from envstack.overlay import mount as overlay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from envstack.linux.mountinfo import Mount

_DOWN = "take that one down first"
_NAME = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def carry_over(mount: Mount, new: int, what: str) -> frozenset[int]:
    """Attach to the overlay `new`, attached nowhere, clones of all that is mounted in `mount`.

    Returns the ids of the originals. Raises Held where one of them cannot be carried over: `new`
    has no such directory, or file; it is an environment, or a part of the merged tree itself.
    `what` is the operation, for the message.
    """
    mounts = read_mounts()
    inside = mounts_inside(mounts, mount)
    for each in inside:
        if each.device == mount.device:
            raise _refusal(what, each, "is a part of the merged tree itself")
        if each.source.startswith(SOURCE):
            raise _refusal(what, each, "is an environment of its own", _DOWN)
        if "unbindable" in each.optional:
            raise _refusal(what, each, "is unbindable")
    for each in inside:
        if each.parent == mount.id:
            _carry(mounts, mount, each, new, what)
    return frozenset(each.id for each in inside)


def require_carried(mount: Mount, carried: frozenset[int], what: str) -> None:
    """Raise Held where not the very mounts `carried` are inside any more."""
    for each in mounts_inside(read_mounts(), mount):
        if each.id not in carried:
            raise _refusal(what, each, "was mounted inside at this moment", "try again")


def refuse_any(mount: Mount, what: str) -> None:
    """Raise Held where anything is mounted inside: an exchange that leaves a gap carries nothing.

    Killed in the gap there would be neither the originals nor the clones.
    """
    for each in mounts_inside(read_mounts(), mount):
        raise _refusal(what, each, "is mounted inside, and Linux before 6.5 would lose it")


def _carry(mounts: Sequence[Mount], mount: Mount, child: Mount, new: int, what: str) -> None:
    if topmost_at(mounts, child.point) != child:
        raise _refusal(what, child, "is covered by another mount")
    with ExitStack() as opened:
        original = overlay.open_mount(child.point)
        opened.callback(os.close, original)
        if mount_id(b"", dir_fd=original) != child.id:
            raise _refusal(what, child, "was covered at this moment", "try again")
        target = _target(opened, new, child.point[len(mount.point) :].split(b"/")[1:])
        if target is None or _is_directory(target) != _is_directory(original):
            raise _refusal(what, child, "has no place in the tree that is to come")
        clone = overlay.clone_tree(original)
        opened.callback(os.close, clone)
        try:
            overlay.attach_within(clone, target)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise _refusal(what, child, "cannot be carried over by this kernel") from error


def _target(opened: ExitStack, new: int, names: Sequence[bytes]) -> int | None:
    """Return a descriptor of what is at that place in `new`; None where a link is in the way."""
    at = new
    for name in names:
        try:
            at = os.open(name, _NAME, dir_fd=at)
        except (FileNotFoundError, NotADirectoryError):
            return None
        opened.callback(os.close, at)
    return None if stat.S_ISLNK(os.fstat(at).st_mode) else at


def _is_directory(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def _refusal(what: str, mount: Mount, why: str, way_out: str = "") -> Held:
    shown = os.fsdecode(mount.point)
    hold = Hold(HoldKind.MOUNT_INSIDE, mount.point)
    holder = Holder(None, "mount", "", (hold,))
    return Held(
        f"cannot {what}: {mount.fstype} at {shown!r} {why}",
        way_out or f"umount {shown}",
        (holder,),
    )
