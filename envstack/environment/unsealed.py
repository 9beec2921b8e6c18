"""What the merged tree shows otherwise than the head: what no checkpoint holds.

Where the chain of the head is mounted, that is what the upper holds. After a live checkpoint the
upper holds what is sealed as well, and what was written down of it then tells where to look.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from envstack.environment.history import head_chain, merged_trees
from envstack.environment.trees import layer_trees, upper_tree
from envstack.feed.doubt import grain_of
from envstack.overlay.compared import Census
from envstack.overlay.delta import Delta
from envstack.overlay.diff import differences
from envstack.overlay.exactly import EVERYWHERE
from envstack.overlay.kept import Watch
from envstack.overlay.listed import Listing, unpack
from envstack.overlay.root import is_like
from envstack.overlay.sameness import go_on
from envstack.store.seals import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from envstack.environment.context import Context
    from envstack.model import Chain, Environment
    from envstack.overlay.delta import Before
    from envstack.overlay.diff import Difference


def unsealed(
    ctx: Context, env: Environment, tick: Callable[[], None] = go_on
) -> Generator[Difference, None, None]:
    """Yield what differs from the head to the merged tree, by path. Raises as `differences`."""
    paths = where(ctx, env, tick)
    if paths:
        head = layer_trees(ctx, env, head_chain(ctx, env))
        yield from differences(head, merged_trees(ctx, env), paths, tick)


def where(ctx: Context, env: Environment, tick: Callable[[], None] = go_on) -> tuple[bytes, ...]:
    """Return the paths at and below which the merged tree may differ from the head.

    Raises as `differences` does.
    """
    chain = head_chain(ctx, env)
    paths = _changed(ctx, env, chain, tick)
    upper, head = merged_trees(ctx, env)[0], layer_trees(ctx, env, chain)[0]
    return EVERYWHERE if paths is None or not is_like(upper.path, head.path) else paths


def is_dirty(ctx: Context, env: Environment, tick: Callable[[], None] = go_on) -> bool:
    """Tell whether the merged tree differs from what the head shows."""
    with closing(unsealed(ctx, env, tick)) as found:
        return next(found, None) is not None


def before(ctx: Context, scene: Scene) -> tuple[Before | None, int | None]:
    """Return what tells what the upper held when the head was sealed, and the record's number.

    A head whose chain is mounted was sealed before the upper held anything. None: nobody knows.
    """
    known = ctx.store.seals.find(scene)
    if known is None:
        return (_nothing if scene.chain == scene.lowers else None), None

    def directory(path: bytes) -> Listing:
        packed = ctx.store.seals.directory(known, path)
        return Listing() if packed is None else unpack(packed)

    return directory, known


def _changed(
    ctx: Context, env: Environment, chain: Chain, tick: Callable[[], None]
) -> tuple[bytes, ...] | None:
    """Return the paths that are not as they were written down; None for any path."""
    listing, known = before(ctx, Scene(env.id, env.upper, env.lowers, chain))
    if listing is None or known is None:
        return None
    upper, grain = upper_tree(ctx, env.upper).path, grain_of(ctx.store.home)
    with closing(Census(upper, grain)) as census:
        Delta(upper, listing, census, Watch(ctx.trees(env, chain), grain, tick)).run()
        return tuple(dict.fromkeys(census.paths))


def _nothing(_path: bytes) -> Listing:
    return Listing()
