"""What every sequence works with: the store, the step announcer, the mounts that are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from envstack.environment.beneath import SOURCE, Beneath
from envstack.errors import NotUp, StateError
from envstack.linux.boot import boot_id
from envstack.linux.mountinfo import read_mounts, topmost_at

if TYPE_CHECKING:
    from envstack.environment.drift import Look
    from envstack.environment.exchange import Mounts
    from envstack.environment.steps import Step
    from envstack.linux.launcher import Launcher
    from envstack.linux.mountinfo import Mount
    from envstack.model import Chain, EnvId, Environment, LayerId
    from envstack.store.records import Transition
    from envstack.store.store import Store

Job = Callable[[], bool]
"""Work off the path of an answer: called again, later, until it returns True."""

Progress = Callable[[str], None]
"""Told what is being done; raises Cancelled when nobody wants it any more."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Who waits for the answer: `tell` takes how far it has come, `show` what a command prints.

    Both raise Cancelled when nobody wants the answer any more.
    """

    tell: Progress
    show: Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Context:
    """`kept` holds, for each environment that is up, a detached clone of its mount.

    A clone costs nothing and keeps the superblock: what somebody unmounts is put back as it was.
    `faults` says why an environment that is wanted up could not be mounted, `looks` what is known
    of the layers below one that is. `boot` is the id of the boot that is running; `beneath` holds
    the projects that environments are mounted over.
    """

    store: Store
    announce: Callable[[Step], None]
    defer: Callable[[Job], None]
    launcher: Launcher
    mounts: Mounts
    kept: dict[EnvId, int] = field(default_factory=dict)
    faults: dict[EnvId, str] = field(default_factory=dict)
    looks: dict[EnvId, Look] = field(default_factory=dict)
    boot: str = field(default_factory=boot_id)
    beneath: Beneath = field(default_factory=Beneath)

    def trees(self, env: Environment, chain: Chain) -> tuple[bytes, ...]:
        """Return the directories of a chain of `env`, topmost first, as they can be read now.

        To be used before the environment is mounted or unmounted the next time. Raises Damaged for
        an unknown layer, and what `Beneath.reach` raises.
        """
        return tuple(self.beneath.reach(env, tree) for tree in self.store.trees(chain))

    def keep(self, env: EnvId, clone: int) -> int | None:
        """Keep `clone` from now on, and return the one that was kept until now."""
        before = self.kept.pop(env, None)
        self.kept[env] = clone
        return before

    def release(self, env: EnvId) -> None:
        """Let the kept clone go; the superblock is synced here if it was the last reference."""
        self.looks.pop(env, None)
        clone = self.kept.pop(env, None)
        if clone is not None:
            os.close(clone)
        self.beneath.release(env)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two mounts that change places: `old` is locked and attached, `new` attached nowhere."""

    old: int
    new: int


def mount_source(upper: LayerId) -> bytes:
    """Return the `source` under which the mount table names the overlay on `upper`."""
    return SOURCE + upper.encode()


def uppers(env: Environment, intent: Transition | None) -> set[LayerId]:
    """Return the uppers that its mount may be of: between two steps it is the next one already."""
    return {env.upper, intent.after.upper} if intent else {env.upper}


def visible_mount(env: Environment) -> Mount | None:
    """Return what is mounted at the environment's mount point, if it is the environment."""
    top = topmost_at(read_mounts(), env.mount)
    return top if top is not None and top.source == mount_source(env.upper) else None


def require_mount(env: Environment) -> Mount:
    """Return the environment's mount. Raises NotUp or StateError where it cannot be seen."""
    if not env.wanted:
        raise NotUp(f"environment {env.name!r} is not up", "envstack up")
    top = topmost_at(read_mounts(), env.mount)
    if top is not None and top.source == mount_source(env.upper):
        return top
    if top is None:
        place = os.fsdecode(env.mount)
        raise StateError(f"environment {env.name!r} is not mounted at {place}", "envstack up")
    raise covered(env, top.source)


def covered(env: Environment, source: bytes) -> StateError:
    """Return the error for a mount of `source` that is in the way at the mount point."""
    place = os.fsdecode(env.mount)
    return StateError(
        f"{place} is covered by another mount ({os.fsdecode(source)})", f"umount {place}"
    )


def since(began: float) -> float:
    """Return the milliseconds since `time.perf_counter` said `began`."""
    return round((time.perf_counter() - began) * 1000, 3)


def now() -> str:
    """Return the time in RFC 3339, UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
