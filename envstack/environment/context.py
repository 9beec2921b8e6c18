"""What every sequence works with: the store, the step announcer, the mounts that are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from envstack.environment.beneath import SOURCE, Beneath
from envstack.errors import NotUp, StateError
from envstack.linux.boot import boot_id
from envstack.linux.mountinfo import reached_at, read_mounts, topmost_at
from envstack.stackfile.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from envstack.environment.drift import Look
    from envstack.environment.exchange import Mounts
    from envstack.environment.groups import Groups
    from envstack.environment.steps import Step
    from envstack.feed.follower import Follower
    from envstack.linux.launcher import Launcher
    from envstack.linux.mountinfo import Mount
    from envstack.model import Chain, EnvId, Environment, LayerId
    from envstack.store.records import Transition
    from envstack.store.store import Store

Job = Callable[[], bool]
"""Work off the path of an answer: called again, later, until it returns True."""

_ELSEWHERE = "choose another `mount`"
_ANOTHER_STORE = (
    "another envstack store (ENVSTACK_HOME) has its tree there: take it down with that store"
)

Progress = Callable[[str], None]
"""Told what is being done; raises Cancelled when nobody wants it any more."""


def tell_nobody(_message: str) -> None:
    """Take no notice of how far it is: what has happened is not to be given up any more."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Who waits for the answer: `tell` takes how far it has come, `show` what a command prints.

    Both raise Cancelled when nobody wants the answer any more.
    """

    tell: Progress
    show: Callable[[bytes], None]


@contextmanager
def freeze_nothing(_env: EnvId) -> Iterator[bool]:
    """Let nobody stand still."""
    yield False


@dataclass(frozen=True, slots=True)
class Context:
    """`kept` holds, for each environment that is up, a detached clone of its mount.

    A clone costs nothing and keeps the superblock: what somebody unmounts is put back as it was.
    `faults` says why an environment that is wanted up could not be mounted, `looks` what is known
    of the layers below one that is. `boot` is the id of the boot that is running; `beneath` holds
    the projects that environments are mounted over. `follower` gives the one that tells what
    happens to an environment, in a worker thread. `groups` are of those who are inside by our
    commands; `freeze` lets them stand still, for as long as its context lasts, and yields whether
    there were any and all do.
    """

    store: Store
    announce: Callable[[Step], None]
    defer: Callable[[Job], None]
    launcher: Launcher
    mounts: Mounts
    follower: Callable[[EnvId], Follower]
    groups: Groups
    kept: dict[EnvId, int] = field(default_factory=dict)
    faults: dict[EnvId, str] = field(default_factory=dict)
    looks: dict[EnvId, Look] = field(default_factory=dict)
    boot: str = field(default_factory=boot_id)
    beneath: Beneath = field(default_factory=Beneath)
    freeze: Callable[[EnvId], AbstractContextManager[bool]] = freeze_nothing
    limits: Limits = field(default_factory=Limits)

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
    mounts = read_mounts()
    top = topmost_at(mounts, env.mount)
    if top is not None and top.source == mount_source(env.upper):
        return top
    raise covered(env, mounts) or moved(env, mounts) or _unmounted(env)


def find_mount(env: Environment) -> Mount | None:
    """Return the environment's mount, which may be elsewhere: with a moved project it travels.

    Raises StateError where it is out of reach under another one.
    """
    mounts = read_mounts()
    own = sorted(_own(env, mounts), key=lambda mount: mount.point != env.mount)
    for mount in own:
        if topmost_at(mounts, mount.point) == mount:
            return mount
    if own:
        raise _hidden(own[0], mounts)
    return None


def covered(env: Environment, mounts: Sequence[Mount]) -> StateError | None:
    """Return the error for another mount that is in the way at the mount point, if there is one."""
    for mount in _own(env, mounts):
        if mount.point == env.mount and topmost_at(mounts, env.mount) != mount:
            return _hidden(mount, mounts)
    top = topmost_at(mounts, env.mount)
    if top is None or top.source == mount_source(env.upper):
        return None
    place = os.fsdecode(env.mount)
    is_inside = env.mount.startswith(env.project + b"/")
    way_out = f"umount {place}, or choose another `mount`" if is_inside else _ELSEWHERE
    return _cover(env.mount, top, way_out)


def moved(env: Environment, mounts: Sequence[Mount]) -> StateError | None:
    """Return the error for a project that is not where it was, with its mount or without."""
    own = _own(env, mounts)
    if any(mount.point == env.mount for mount in own):
        return None
    if not own and os.path.isdir(env.project):
        return None
    where = f", and is mounted at {os.fsdecode(own[0].point)}" if own else ""
    return StateError(
        f"the project of {env.name!r} was moved or deleted{where}",
        f"move it back to {os.fsdecode(env.project)},"
        f" or: envstack down {os.fsdecode(env.stack_path)}",
    )


def _own(env: Environment, mounts: Iterable[Mount]) -> list[Mount]:
    """Return all mounts of the whole merged tree of `env`, out of reach or not."""
    source = mount_source(env.upper)
    return [mount for mount in mounts if mount.source == source and mount.root == b"/"]


def _unmounted(env: Environment) -> StateError:
    place = os.fsdecode(env.mount)
    return StateError(f"environment {env.name!r} is not mounted at {place}", "envstack up")


def _hidden(own: Mount, mounts: Sequence[Mount]) -> StateError:
    """Return the error for a mount of ours that no path leads to."""
    over = reached_at(mounts, own.point) or own
    return _cover(own.point, over, f"umount {os.fsdecode(over.point)}")


def _cover(place: bytes, over: Mount, way_out: str) -> StateError:
    """Return the error for `over`, which hides `place`.

    `way_out` is for what a user mounted: a tree of another store would be put back by its daemon.
    """
    what = os.fsdecode(over.source)
    if over.source.startswith(SOURCE):
        way_out = _ANOTHER_STORE
    elif over.fstype != what:
        what = f"{over.fstype} {what}"
    return StateError(f"{os.fsdecode(place)} is covered by another mount ({what})", way_out)


def since(began: float) -> float:
    """Return the milliseconds since `time.perf_counter` said `began`."""
    return round((time.perf_counter() - began) * 1000, 3)


def now() -> str:
    """Return the time in RFC 3339, UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
