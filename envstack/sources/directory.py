"""The `dir` entry that is copied: a private copy of a user's directory, below `at`.

By reference a directory is no business of this room: it is mounted where it lies.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.overlay.copy import copy_tree
from envstack.overlay.root import copy_root

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
    names = [] if layer.at == b"." else layer.at.split(b"/")
    at = b"."
    for name in names:
        _look_like(tree, at, below)
        at = os.path.join(at, name)
        os.mkdir(os.path.join(tree, at))
    copy_tree(layer.dir, os.path.join(tree, at), tick=tick)


def _look_like(tree: bytes, at: bytes, models: Sequence[bytes]) -> None:
    """Make the directory `at` look like the one that it covers, or like the root that it is in."""
    covered = (os.path.join(model, at) for model in models)
    found = next((path for path in covered if os.path.isdir(path)), models[0])
    copy_root(found, os.path.join(tree, at))
