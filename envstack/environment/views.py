"""What the feed of an environment has to do with the environment: its layers, its beginning."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from envstack.environment.trees import layer_trees, upper_tree
from envstack.errors import EnvstackError
from envstack.feed import cursor
from envstack.feed.follower import Views

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.model import Chain, EnvId, Environment, LayerId
    from envstack.overlay.merged import LayerTree


_log = logging.getLogger(__name__)


def begin(ctx: Context, env: Environment) -> None:
    """Begin the feed of an environment that was just mounted, if it never was.

    The feed does so itself where this fails; but then its first cursor is known later.
    """
    journal = ctx.store.journal
    try:
        if journal.followed(env.id) is None:
            last = ctx.store.operations.last(env.id)
            journal.begin(env.id, env.upper, env.lowers, last)
    except EnvstackError as error:
        _log.warning("the feed of %s cannot begin as yet: %s", env.name, error)


def end(ctx: Context, env: EnvId) -> str | None:
    """Return the cursor of the end of a feed; None where it was never begun."""
    place = ctx.store.journal.end(env)
    return None if place is None else cursor.text(env, place)


def needs(ctx: Context, layer: LayerId) -> bool:
    """Tell whether a feed has yet to tell what was written into a layer, or what stood on it."""
    if ctx.store.journal.needs(layer):
        return True
    return any(
        layer in (each.before.upper, *each.before.lowers)
        for env in ctx.store.journal.environments()
        if (followed := ctx.store.journal.followed(env)) is not None
        for each in ctx.store.operations.after(env, followed.ops)
    )


def views(ctx: Context, env: EnvId) -> Views:
    """Return the views of an environment, good as long as the context is."""

    def chain(layers: Chain) -> tuple[LayerTree, ...]:
        return layer_trees(ctx, ctx.store.db.environment(env), layers)

    def merged() -> bytes | None:
        kept = ctx.kept.get(env)
        return None if kept is None else b"/proc/self/fd/%d" % kept

    return Views(partial(upper_tree, ctx), chain, partial(ctx.beneath.held, env), merged)
