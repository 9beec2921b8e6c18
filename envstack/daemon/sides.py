"""Differences with the places where each side lies, for a client that reads the files itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from envstack.rpc import shapes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envstack.overlay.diff import Difference, LayerTree

_OWN = b"/proc/self/"


def changes(rows: Iterable[Difference]) -> list[dict[str, Any]]:
    """Return the rows of `diff`."""
    return [shapes.change(row.change) for row in rows]


def comparison(rows: Iterable[Difference]) -> dict[str, Any]:
    """Return `{trees, changes}`: paths of directories, and rows of `diff`.

    Each row has `old` and `new`, the number of the tree that shows its path on that side, or null.
    """
    numbers: dict[LayerTree | None, int | None] = {None: None}
    trees: list[str] = []

    def number(tree: LayerTree | None) -> int | None:
        if tree is not None and tree not in numbers:
            numbers[tree] = len(trees)
            trees.append(_reachable(tree.path))
        return numbers[tree]

    found = [
        {**shapes.change(row.change), "old": number(row.old), "new": number(row.new)}
        for row in rows
    ]
    return {"trees": trees, "changes": found}


def _reachable(path: bytes) -> str:
    """Return a path that leads other processes to the same place: not by this one's descriptors."""
    if path.startswith(_OWN):
        path = b"/proc/%d/" % os.getpid() + path.removeprefix(_OWN)
    return os.fsdecode(path)
