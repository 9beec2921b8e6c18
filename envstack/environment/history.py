"""Points of history: names of revisions, the log, differences between any two points."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.environment.context import now
from envstack.environment.steps import Step
from envstack.environment.trees import layer_trees, upper_tree
from envstack.errors import EnvstackError, NotFound, StateError, UsageError
from envstack.model import (
    BASE,
    ChangeType,
    Checkpoint,
    CheckpointId,
    Counts,
    LayerKind,
    new_id,
)
from envstack.overlay.diff import diff

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envstack.environment.context import Context
    from envstack.model import Chain, Change, Environment
    from envstack.overlay.diff import LayerTree

ROTATE = "rotate"
"""The `mode` of a checkpoint whose layer is the upper itself."""
LIVE = "live"
"""The `mode` of one whose layer holds a copy of what changed."""

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_ANCESTOR = re.compile(r"@(?:~(\d{0,9}))?", re.ASCII)
_MIN_PREFIX = 4
_LONGEST_TAG = 100


@dataclass(frozen=True, slots=True)
class Revision:
    """A point of history: its chain, and its checkpoint, or None for the stack alone."""

    chain: Chain
    checkpoint: Checkpoint | None

    @property
    def name(self) -> str:
        """The id of the checkpoint, or `base`."""
        return self.checkpoint.id if self.checkpoint else BASE

    @property
    def head(self) -> CheckpointId | None:
        """What an environment's `head` is when it stands here."""
        return self.checkpoint.id if self.checkpoint else None


def new_checkpoint(
    env: Environment, chain: Chain, message: str, tag: str | None, mode: str = ROTATE
) -> Checkpoint:
    """Return a checkpoint of `chain`, on the head."""
    return Checkpoint(
        id=CheckpointId(new_id()),
        env=env.id,
        parent=env.head,
        message=message,
        tag=tag,
        created_at=now(),
        mode=mode,
        chain=chain,
        changes=None,
    )


def head_chain(ctx: Context, env: Environment) -> Chain:
    """Return the chain of the head: after a live checkpoint it is not the mounted one."""
    return ctx.store.db.checkpoint(env.head).chain if env.head else env.base


def resolve(ctx: Context, env: Environment, rev: str) -> Revision:
    """Return what `rev` names: `@`, `@~N`, `base`, a tag, an id or a prefix of four and more.

    Raises NotFound where nothing or more than one checkpoint is meant.
    """
    if rev == BASE:
        return Revision(env.base, None)
    rows = ctx.store.db.checkpoints(env.id)
    by_id = {row.id: row for row in rows}
    if match := _ANCESTOR.fullmatch(rev):
        steps = 0 if rev == "@" else int(match[1] or 1)
        return _ancestor(env, by_id, steps, rev)
    found = [row for row in rows if rev == row.id] or [row for row in rows if rev == row.tag]
    if not found and len(rev) >= _MIN_PREFIX:
        found = [row for row in rows if row.id.startswith(rev)]
    if len(found) > 1:
        raise NotFound(f"{rev!r} is the beginning of {len(found)} ids", "give more characters")
    if not found:
        raise NotFound(f"no checkpoint is called {rev!r}", "envstack log")
    return Revision(found[0].chain, found[0])


def _ancestor(
    env: Environment, by_id: dict[CheckpointId, Checkpoint], steps: int, rev: str
) -> Revision:
    at = by_id[env.head] if env.head else None
    for _ in range(steps):
        if at is None:
            raise NotFound(f"{rev!r} lies before the beginning of history", "envstack log")
        at = by_id[at.parent] if at.parent else None
    return Revision(at.chain, at) if at else Revision(env.base, None)


def check_tag(ctx: Context, env: Environment, tag: str) -> None:
    """Raise UsageError if `tag` is not a tag, StateError if it is taken, by an id as well."""
    if not _TAG.fullmatch(tag):
        raise UsageError(
            f"{tag!r} is not a tag", "a letter or digit, then letters, digits, '.', '_' and '-'"
        )
    if len(tag) > _LONGEST_TAG:
        raise UsageError(
            f"a tag has {_LONGEST_TAG} characters at most, and this one {len(tag)}",
            "the message may be as long as you like: envstack checkpoint -m MSG",
        )
    if tag == BASE:
        raise StateError("the tag 'base' is taken: it names the stack alone", "choose another")
    for row in ctx.store.db.checkpoints(env.id):
        if row.tag == tag:
            raise StateError(f"the tag {tag!r} is taken", "choose another")
        if len(tag) >= _MIN_PREFIX and row.id.startswith(tag):
            raise StateError(f"{tag!r} already means checkpoint {row.id}", "choose another tag")


def log(ctx: Context, env: Environment) -> list[Checkpoint]:
    """Return every checkpoint of the environment, newest first."""
    return ctx.store.db.checkpoints(env.id)


def merged_trees(ctx: Context, env: Environment) -> tuple[LayerTree, ...]:
    """Return the merged tree as `overlay.diff` reads it: the upper on the layers below it."""
    return (upper_tree(ctx, env.upper), *layer_trees(ctx, env, env.lowers))


def trees_of(ctx: Context, env: Environment, rev: str | None) -> tuple[LayerTree, ...]:
    """Return the trees that `rev` names; None is the merged tree."""
    if rev is None:
        return merged_trees(ctx, env)
    return layer_trees(ctx, env, resolve(ctx, env, rev).chain)


def tally(changes: Iterable[Change]) -> Counts:
    """Return how many of `changes` are of each type."""
    found = Counter(change.change for change in changes)
    return Counts(found[ChangeType.ADDED], found[ChangeType.MODIFIED], found[ChangeType.DELETED])


def count(ctx: Context, env: Environment, checkpoint: Checkpoint) -> bool:
    """Count off the path what a checkpoint changed against its parent, and write it down.

    Nothing keeps the environment from being mounted or unmounted meanwhile. What that brings to
    other paths is counted anew.
    """
    ctx.announce(Step.COUNT)
    if not ctx.store.db.knows(env.id):
        return True
    if checkpoint.parent:
        parent = resolve(ctx, env, checkpoint.parent).chain
    else:
        parent = _stack_below(ctx, checkpoint.chain)
    before, after = (layer_trees(ctx, env, chain) for chain in (parent, checkpoint.chain))
    held = ctx.beneath.held(env.id)
    try:
        counts = tally(diff(before, after))
    except (EnvstackError, OSError):
        if ctx.beneath.held(env.id) is held:
            raise
        return False
    if ctx.beneath.held(env.id) is not held:
        return False
    ctx.store.db.set_counts(checkpoint.id, counts)
    return True


def _stack_below(ctx: Context, chain: Chain) -> Chain:
    """Return what of a chain a stack file made; the environment's own may be another by now."""
    layers = ctx.store.db.chain(chain)
    return tuple(layer.id for layer in layers if layer.kind is not LayerKind.UPPER)
