"""The layers of an environment as they are read: where each lies now, and how it is marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envstack.model import LayerKind
from envstack.overlay.merged import LayerTree

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.model import Chain, Environment, LayerId

_BY_OVERLAY = frozenset({LayerKind.UPPER, LayerKind.RUN})
"""The kinds of layers that are written through an overlay of ours, and by nothing else."""


def upper_tree(ctx: Context, upper: LayerId) -> LayerTree:
    """Return an upper as `overlay.diff` reads it."""
    return LayerTree(ctx.store.layers.fs(upper), marked_by_type=True)


def layer_trees(ctx: Context, env: Environment, chain: Chain) -> tuple[LayerTree, ...]:
    """Return a chain of `env` as `overlay.diff` reads it."""
    layers = zip(ctx.store.db.chain(chain), ctx.trees(env, chain), strict=True)
    return tuple(
        LayerTree(path, marked_by_type=layer.kind in _BY_OVERLAY) for layer, path in layers
    )
