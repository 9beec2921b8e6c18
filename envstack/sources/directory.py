"""The `dir` entry that is copied: a private copy of a user's directory, below `at`.

By reference a directory is no business of this room: it is mounted where it lies.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.overlay.copy import copy_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from envstack.stackfile import DirLayer


def build(layer: DirLayer, tree: bytes, tick: Callable[[int], None]) -> None:
    """Copy the entry's directory into the empty directory `tree`, at its place there.

    `tick` is told the number of entries copied and may raise to end it. Raises what `copy_tree`
    raises; what was copied by then stays.
    """
    place = os.path.normpath(os.path.join(tree, layer.at))
    os.makedirs(place, exist_ok=True)
    copy_tree(layer.dir, place, tick=tick)
