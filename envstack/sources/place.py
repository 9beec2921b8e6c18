"""Where in a layer an entry with `at` stands, and how the directories on the way there look."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.overlay.root import copy_root

if TYPE_CHECKING:
    from collections.abc import Sequence


def make_place(tree: bytes, at: bytes, below: Sequence[bytes]) -> bytes:
    """Make the directory `at` of the empty directory `tree`, and return its path.

    Those on the way look like those that they cover in `below`, topmost first, the project last.
    """
    place = b"."
    for name in [] if at == b"." else at.split(b"/"):
        look_like(tree, place, below)
        place = os.path.join(place, name)
        os.mkdir(os.path.join(tree, place))
    return os.path.join(tree, place)


def look_like(tree: bytes, at: bytes, models: Sequence[bytes]) -> None:
    """Make the directory `at` look like the one that it covers, or like the root that it is in."""
    covered = (os.path.join(model, at) for model in models)
    found = next((path for path in covered if os.path.isdir(path)), models[0])
    copy_root(found, os.path.join(tree, at))
