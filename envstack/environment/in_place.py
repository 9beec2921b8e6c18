"""`rollback` in place: the merged tree is made the target's through the mount that stands.

    compare    what differs is known, and nothing has been touched
    register   the intent is durable, and the feed tells that it begins
    apply      one path after the other becomes what it was in the target
    commit     the head is the target

Whoever is inside stays there. What is not sealed is sealed live before, and what somebody changes
after that is not touched: it is sealed too, and the rest done then. Who was started by our commands
stands still from the last seal on, so that files which belong together change together. Killed in
the middle, it is finished at the next start: what still differs is found anew. Where it cannot go
on it stops, the head stays where it was, and all that differs from it can be seen.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envstack.environment.context import now, require_mount, visible_mount
from envstack.environment.durability import require_whole
from envstack.environment.history import head_chain, merged_trees, resolve, tally
from envstack.environment.live import seal_live
from envstack.environment.mounting import require_layers
from envstack.environment.steps import Step
from envstack.environment.swap import require_top
from envstack.environment.trees import layer_trees
from envstack.environment.unsealed import is_dirty, where
from envstack.errors import EnvstackError, StateError
from envstack.linux.mountinfo import mounts_inside, read_mounts
from envstack.linux.syscalls import mount_id
from envstack.model import BASE, Counts
from envstack.overlay import mount as overlay
from envstack.overlay.care import Care, look
from envstack.overlay.diff import differences
from envstack.overlay.exactly import EVERYWHERE, plan
from envstack.overlay.restore import Restoration, temporary
from envstack.store.records import Op, Transition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from envstack.environment.context import Context
    from envstack.environment.history import Revision
    from envstack.feed.follower import Follower
    from envstack.linux.mountinfo import Mount
    from envstack.model import CheckpointId, Environment
    from envstack.overlay.exactly import Plan

_log = logging.getLogger(__name__)

IN_PLACE = "in-place"
"""The `mode` of a rollback that goes through the mount that stands."""

_ROUNDS = 3
"""How often what somebody changed meanwhile is sealed, and put right after that."""

_BEFORE, _DURING = "saved before rollback to", "written during the rollback to"
"""How the messages of what is saved begin."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done: `saved` are the checkpoints that were made for it, `late` what was left.

    `changed` are the paths that became others.
    """

    saved: tuple[CheckpointId, ...]
    changes: Counts
    changed: frozenset[bytes]
    late: tuple[bytes, ...]


def roll_back(ctx: Context, env: Environment, target: Revision, *, discard: bool) -> Restored:
    """Make the merged tree of `env`, which is mounted, what `target` shows.

    Raises StateError, with nothing touched, for a mount that is in the way; EnvstackError where it
    stops halfway: the intent is closed then, and the head where it was, or at what was saved.
    """
    _require_way(ctx, env, target)
    saved: list[CheckpointId] = []
    changed: set[bytes] = set()
    counts: Counts | None = None
    late: tuple[bytes, ...] = ()

    def save(words: str) -> Environment:
        if not discard and is_dirty(ctx, env):
            saved.append(seal_live(ctx, env, f"{words} {target.name}", None).checkpoint.id)
        return ctx.store.db.environment(env.id)

    with ExitStack() as still:
        for number in range(_ROUNDS):
            env = save(_DURING if saved else _BEFORE)
            if discard:
                still.enter_context(ctx.freeze(env.id))
            found = _compared(ctx, env, target)
            if not discard:
                still.enter_context(ctx.freeze(env.id))
                if number == 0 and is_dirty(ctx, env):
                    continue  # what belongs together is sealed and compared at one instant
            late = _once(ctx, env, target, found, discard=discard)
            env = ctx.store.db.environment(env.id)
            changed |= set(found.paths).difference(late)
            counts = counts or tally(found.changes)
            if not late:
                break
    return Restored(tuple(saved), counts or Counts(), frozenset(changed), late)


def _compared(ctx: Context, env: Environment, target: Revision) -> Plan:
    ctx.announce(Step.COMPARE)
    found = _plan(ctx, env, target)
    _require_free(require_mount(env), found)
    return found


def _once(
    ctx: Context, env: Environment, target: Revision, found: Plan, *, discard: bool
) -> tuple[bytes, ...]:
    """Put right what nobody changed since it was sealed; return the paths that were left alone."""
    since = time.time_ns() if discard else None
    transition = Transition(Op.ROLLBACK, replace(env, head=target.head), discards_before=since)
    if not found.paths:
        _commit(ctx, transition)
        return ()
    with _feed(ctx, env) as feed:
        feed.catch_up()
    ctx.announce(Step.REGISTER)
    ctx.store.db.begin(transition)
    try:
        with _merged(env) as merged:
            late = _apply(ctx, env, merged, found, _care(ctx, env, merged, found, discard=discard))
    except (EnvstackError, OSError) as error:
        _stop(ctx, env)
        raise _stopped(env, target, error) from error
    _commit(ctx, transition)
    return late


def resume(ctx: Context, env: Environment, transition: Transition) -> None:
    """Finish what was begun and not committed, where that can be; else leave the head as it was.

    What was written since is left as it is. `env` is mounted again, if it can be.
    """
    rev = transition.after.head or BASE
    try:
        _resume(ctx, env, transition, resolve(ctx, env, rev))
    except (EnvstackError, OSError) as error:
        _log.error(
            "%s: the rollback to %s was cut short and cannot be finished: %s", env.name, rev, error
        )
        _stop(ctx, env)
    else:
        _log.info("%s: the rollback to %s was cut short, and is finished", env.name, rev)


def _resume(ctx: Context, env: Environment, transition: Transition, target: Revision) -> None:
    if visible_mount(env) is None:
        raise StateError("it is not mounted", "envstack up")
    require_layers(ctx, env, target.chain, target.name)
    if target.checkpoint:
        require_whole(target.checkpoint)
    found = _compared(ctx, env, target)
    with _merged(env) as merged:
        since = transition.discards_before
        if since is None:
            care = _care(ctx, env, merged, found, discard=False)
        else:
            care = Care(_newer(env, merged, found, since))
        with ctx.freeze(env.id):
            late = _apply(ctx, env, merged, found, care)
    if late:
        shown = ", ".join(os.fsdecode(path) for path in late[:3])
        _log.warning("%s: left as somebody wrote it meanwhile: %s", env.name, shown)
    _commit(ctx, transition)


def _plan(ctx: Context, env: Environment, target: Revision) -> Plan:
    """Return what makes the merged tree that of `target`.

    Where it is known where the tree may differ from the head, no more is looked at than that, and
    what differs between the head and the target.
    """
    wanted = layer_trees(ctx, env, target.chain)
    paths = where(ctx, env)
    if paths != EVERYWHERE:
        head = layer_trees(ctx, env, head_chain(ctx, env))
        paths = tuple(dict.fromkeys([*paths, *plan(head, wanted).paths]))
    return plan(merged_trees(ctx, env), wanted, paths)


def _apply(
    ctx: Context, env: Environment, merged: bytes, found: Plan, care: Care
) -> tuple[bytes, ...]:
    """Put right what is wrong; return the paths that were left alone."""
    restoration = Restoration(merged, found, care, temporary(env.upper))
    with _feed(ctx, env) as feed:  # that it begins, before anything is seen of it
        feed.advance()
    for _path in restoration.run():
        ctx.announce(Step.APPLY)
    return tuple(dict.fromkeys(restoration.late))


def _commit(ctx: Context, transition: Transition) -> None:
    ctx.announce(Step.COMMIT)
    ctx.store.db.commit(transition, now())
    with _feed(ctx, transition.after) as feed:  # that it is over, before anything else is done
        feed.advance()


def _stop(ctx: Context, env: Environment) -> None:
    """Close the intent: what was done is a change of the tree like any other."""
    ctx.store.db.commit(Transition(Op.ROLLBACK, env), now())


def _stopped(env: Environment, target: Revision, error: Exception) -> EnvstackError:
    """Return what is said of a rollback that stopped halfway."""
    why = str(error)
    if isinstance(error, OSError):
        why = error.strerror or why
        if error.filename:
            why += f": {os.fsdecode(error.filename)}"
    room = "free some space; " if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT) else ""
    return EnvstackError(
        f"the rollback to {target.name} stopped halfway: {why}",
        f"{room}`envstack rollback {target.name}` goes on, `envstack rollback {env.head or BASE}`"
        " takes back what was done",
    )


@contextmanager
def _feed(ctx: Context, env: Environment) -> Iterator[Follower]:
    """Give the one that tells what happens; what it cannot tell now, it tells later."""
    try:
        yield ctx.follower(env.id)
    except (EnvstackError, OSError) as error:
        _log.warning("the feed of %s is behind: %s", env.name, error)


@contextmanager
def _merged(env: Environment) -> Iterator[bytes]:
    """Give a path by which the merged tree is reached whatever is mounted over it meanwhile."""
    expected = require_mount(env)
    opened = overlay.open_mount(env.mount)
    try:
        require_top(env.mount, mount_id(b"", dir_fd=opened), expected.id)
        yield b"/proc/self/fd/%d" % opened
    finally:
        os.close(opened)


def _care(ctx: Context, env: Environment, merged: bytes, found: Plan, *, discard: bool) -> Care:
    """Return what is not to be touched: what is not as it was sealed, or does not stay so."""
    if discard or not found.paths:
        return Care()
    seen = look(merged, found.paths)
    head = layer_trees(ctx, env, head_chain(ctx, env))
    changed = differences(head, merged_trees(ctx, env), found.paths)
    return Care(_but_ours(env, (row.change.path for row in changed)), seen)


def _but_ours(env: Environment, paths: Iterable[bytes]) -> frozenset[bytes]:
    """Return paths without what a killed daemon left of its own."""
    ours = temporary(env.upper)
    return frozenset(path for path in paths if os.path.basename(path) != ours)


def _newer(env: Environment, merged: bytes, found: Plan, since: int) -> frozenset[bytes]:
    """Return the files that changed after `since`; in a directory that keeps it too."""
    return _but_ours(
        env,
        (
            path
            for path, status in look(merged, found.paths).items()
            if status and status.st_ctime_ns > since and not stat.S_ISDIR(status.st_mode)
        ),
    )


def _require_way(ctx: Context, env: Environment, target: Revision) -> None:
    """Raise StateError for a mount in the way, before anything is sealed."""
    mount = require_mount(env)
    if mounts_inside(read_mounts(), mount):
        _require_free(mount, _plan(ctx, env, target))


def _require_free(mount: Mount, found: Plan) -> None:
    """Raise StateError for a mount on a path that is to change, or that hides one."""
    for inside in mounts_inside(read_mounts(), mount):
        relative = inside.point[len(mount.point) :].lstrip(b"/")
        for path in found.paths:
            if (path + b"/").startswith(relative + b"/"):
                shown = os.fsdecode(inside.point)
                raise StateError(
                    f"cannot roll back in place: {shown} is mounted on what must change",
                    f"umount {shown}",
                )
