"""The `dir` entry that is copied: a private copy of a user's directory, below `at`.

By reference a directory is no business of this room: it is mounted where it lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envstack.overlay.copy import copy_tree
from envstack.sources.place import make_place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from envstack.stackfile import DirLayer


def build(
    layer: DirLayer, tree: bytes, below: Sequence[bytes], tick: Callable[[int], None]
) -> None:
    """Copy the entry's directory into the empty directory `tree`, at its place there.

    `below` are the trees that it will cover, topmost first, the project last. `tick` is told the
    number of entries copied and may raise to end it. Raises what `copy_tree` raises; what was
    copied by then stays.
    """
    copy_tree(layer.dir, make_place(tree, layer.at, below), tick=tick)
