"""Which mounts hold an overlay: copies and binds of it, and what is mounted inside it.

Judges mount tables that were read before; it reads nothing itself. What it must tell apart is a
copy that stays behind, and one that mount propagation takes along (mount_namespaces(7)).
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING

from envstack.linux.mountinfo import mounts_inside, mounts_over
from envstack.model import Hold, HoldKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from envstack.linux.mountinfo import Mount


def held_by_mounts(
    mount: Mount, own: Sequence[Mount], foreign: Mapping[int, Sequence[Mount]]
) -> Iterator[tuple[int | None, Hold]]:
    """Yield what holds the superblock of `mount` by being mounted, each with a process or None.

    `own` is the table of the namespace that `mount` is in: its holds come with None. `foreign` has
    the tables of other namespaces, each under the id of a process there. No mount may be in two
    tables. A mount that covers `mount` counts as inside: it vanishes with `mount` likewise.
    """
    propagation = _Propagation(chain(own, *foreign.values()))
    inside = [*mounts_inside(own, mount), *mounts_over(own, mount)]
    yield from ((None, Hold(HoldKind.MOUNT_INSIDE, child.point)) for child in inside)
    for pid, mounts in ((None, own), *foreign.items()):
        kind = HoldKind.BIND if pid is None else HoldKind.COPY
        for copy in mounts:
            if copy.device != mount.device or copy.id == mount.id:
                continue
            if not propagation.follows(copy, mount):
                yield pid, Hold(kind, copy.point)
                continue
            for child in propagation.children[copy.id]:
                # What covers a copy that is taken along is left where it is.
                covers = child.point == copy.point
                if not covers and not any(propagation.follows(child, each) for each in inside):
                    yield pid, Hold(HoldKind.MOUNT_INSIDE, child.point)


class _Propagation:
    """Who follows whom, by the peer groups that all the tables together tell of."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self._by_id = {mount.id: mount for mount in mounts}
        self._masters: dict[str, set[str]] = defaultdict(set)
        self.children: dict[int, list[Mount]] = defaultdict(list)
        for mount in self._by_id.values():
            self.children[mount.parent].append(mount)
            for group in _groups(mount, "shared:"):
                self._masters[group].update(_groups(mount, "master:"))

    def follows(self, copy: Mount, original: Mount) -> bool:
        """Whether mounting and unmounting where `original` stands reaches `copy` as well.

        That is decided by the mounts that the two stand on, not by their own peer groups: an event
        goes from a mount to its peers and slaves, and there to the same directory. Measured: a
        slave that stands elsewhere, or on a mount made private, stays after `umount -l`,
        and so does one in which something else is mounted.
        """
        ground, origin = self._by_id.get(copy.parent), self._by_id.get(original.parent)
        return (
            ground is not None
            and origin is not None
            and copy.root == original.root
            and _place(copy, ground) == _place(original, origin)
            and not self._upstream(ground).isdisjoint(_groups(origin, "shared:"))
        )

    def _upstream(self, mount: Mount) -> set[str]:
        """Return the peer groups whose events `mount` receives, masters of masters included."""
        todo = [*_groups(mount, "shared:"), *_groups(mount, "master:")]
        found: set[str] = set()
        while todo:
            group = todo.pop()
            if group not in found:
                found.add(group)
                todo += self._masters.get(group, ())
        return found


def _groups(mount: Mount, kind: str) -> set[str]:
    return {tag.removeprefix(kind) for tag in mount.optional if tag.startswith(kind)}


def _place(mount: Mount, ground: Mount) -> tuple[str, bytes]:
    """Return the directory that `mount` stands on: a superblock and the path in it."""
    below = mount.point[len(ground.point.rstrip(b"/")) :]
    return ground.device, ground.root.rstrip(b"/") + below
