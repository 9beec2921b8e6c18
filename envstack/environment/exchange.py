"""How overlays are built and exchanged on this kernel, chosen once, by trying, at the start.

Owns the two ways in which a new mount takes the place of an old one, and the steps of each. Which
mounts those are, and what is true before and after, is the business of `swap`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from envstack.environment.carry import carry_over, refuse_any
from envstack.environment.mounting import put_back
from envstack.environment.steps import Step
from envstack.environment.swap import require_top
from envstack.linux.mountinfo import read_mounts, topmost_at
from envstack.linux.syscalls import mount_id
from envstack.overlay import mount as overlay
from envstack.overlay import older

if TYPE_CHECKING:
    from envstack.environment.context import Context, Pair
    from envstack.linux.mountinfo import Mount
    from envstack.model import Environment
    from envstack.store.store import Store

_log = logging.getLogger(__name__)

Build = Callable[[overlay.Overlay, bytes], int]
"""Builds an overlay as `overlay.mount.build` does."""


class Exchange(Protocol):
    """Puts the new mount in the place of the old one, in two parts: the first can be taken back."""

    def carry(self, mount: Mount, new: int, what: str) -> frozenset[int]:
        """Let what is mounted in `mount` come along; return its ids. Raises Held where it cannot.

        `new` is attached nowhere as yet; `what` is the operation, for the message.
        """

    def begin(self, ctx: Context, env: Environment, pair: Pair) -> None:
        """Come to where there is no way back; StateError, with nothing done, for a cover."""

    def finish(self, ctx: Context, env: Environment, pair: Pair) -> None:
        """Let the new mount show; where that fails, the mount table says what has happened."""


class FromBeneath:
    """The new mount waits under the old one: at no instant is there none (Linux 6.5)."""

    def carry(self, mount: Mount, new: int, what: str) -> frozenset[int]:
        """Attach clones to the new mount."""
        return carry_over(mount, new, what)

    def begin(self, ctx: Context, env: Environment, pair: Pair) -> None:
        """Attach the new mount beneath the old one."""
        ctx.announce(Step.BENEATH)
        require_top(env.mount, mount_id(env.mount), _id(pair.old))  # locking takes its time
        overlay.attach_beneath(pair.new, pair.old)

    def finish(self, ctx: Context, env: Environment, pair: Pair) -> None:
        """Detach the old mount, unless somebody did. Raises StateError where it was covered."""
        ctx.announce(Step.DETACH)
        top = mount_id(env.mount)
        if top != _id(pair.new):
            require_top(env.mount, top, _id(pair.old))
            overlay.detach(pair.old)


class InTurn:
    """The old mount is detached, then the new one attached: for an instant there is none."""

    def carry(self, mount: Mount, _new: int, what: str) -> frozenset[int]:
        """Refuse whatever is inside."""
        refuse_any(mount, what)
        return frozenset()

    def begin(self, ctx: Context, env: Environment, pair: Pair) -> None:
        """Detach the old mount, unless somebody did."""
        ctx.announce(Step.DETACH)
        top = topmost_at(read_mounts(), env.mount)
        if top is not None:
            require_top(env.mount, top.id, _id(pair.old))
            overlay.detach(pair.old)

    def finish(self, ctx: Context, env: Environment, pair: Pair) -> None:
        """Attach the new mount; where that fails, the old superblock is put back."""
        try:
            ctx.announce(Step.ATTACH)
            overlay.attach(pair.new, env.mount)
        except BaseException:
            put_back(ctx, env)
            raise


def _id(mount: int) -> int:
    return mount_id(b"", dir_fd=mount)


@dataclass(frozen=True, slots=True)
class Mounts:
    """The ways of this kernel, each chosen by itself: 6.5 to 6.7 have one of the newer calls."""

    build: Build
    exchange: Exchange


def choose(store: Store) -> Mounts:
    """Return the newest ways that this kernel has; nothing is left of the trying."""
    one_by_one = older.takes_lowers_one_by_one(*store.layers.places)
    beneath = older.mounts_beneath()
    _log.info(
        "overlays are built by %s, and exchanged %s",
        "fsconfig(2)" if one_by_one else "mount(2)",
        "from beneath" if beneath else "in turn, with a short gap",
    )
    return Mounts(
        overlay.build if one_by_one else build_by_mount(store),
        FromBeneath() if beneath else InTurn(),
    )


def build_by_mount(store: Store) -> Build:
    """Return the builder for kernels without `lowerdir+`."""
    return partial(older.build, store.layers.empty)
