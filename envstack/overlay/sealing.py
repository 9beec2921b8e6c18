"""The two ways to fill a layer with what changed in an upper since the head was sealed.

By what was written down of the upper then; or, where nothing was, by comparing what the mount shows
with what the chain of the head shows. Either way most is copied first, and what changed meanwhile
when those who can be stopped stand still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from envstack.overlay.compared import Census, lay
from envstack.overlay.delta import Delta
from envstack.overlay.kept import Watch
from envstack.overlay.listed import Listing
from envstack.overlay.making import Making
from envstack.overlay.root import copy_root, is_like, mark_dressed

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from envstack.overlay.delta import Before, Found
    from envstack.overlay.merged import LayerTree

_ALL = (b".",)


@dataclass(frozen=True, slots=True)
class Ground:
    """An upper, the layers below it in its mount, and those of the head's chain; topmost first.

    `grain` is that of the upper's time stamps. `tick` is called all the time, and may raise.
    """

    upper: LayerTree
    lowers: tuple[LayerTree, ...]
    head: tuple[LayerTree, ...]
    grain: int
    tick: Callable[[], None]

    def watch(self, layer: bytes) -> Watch:
        """Return how the upper is read while `layer` is filled."""
        return Watch((layer, *(tree.path for tree in self.head)), self.grain, self.tick)


class Sealing(Protocol):
    """Fills a layer; `found` is what the upper held then, to be written down."""

    found: Found

    def copy(self) -> None:
        """Copy what changed, while others write."""

    def catch_up(self, *, frozen: bool) -> None:
        """Copy what changed meanwhile; unless `frozen`, what was made and deleted meanwhile."""

    def finish(self) -> bool:
        """Give the layer its root's metadata; tell whether it holds anything."""

    @property
    def unstable(self) -> set[bytes]:
        """The paths that changed while they were copied."""


class ByRecord:
    """Copies what is not as `before` says."""

    def __init__(self, ground: Ground, before: Before, layer: bytes, making: Making) -> None:
        self._ground = ground
        self._layer = layer
        self._making = making
        self._delta = Delta(ground.upper.path, before, making, ground.watch(layer))
        self.found = self._delta.found

    def copy(self) -> None:
        self._delta.run()

    def catch_up(self, *, frozen: bool) -> None:
        if frozen:
            self._delta.run()
        self._delta.settle()

    def finish(self) -> bool:
        return _finish(self._ground, self._layer, self._making)

    @property
    def unstable(self) -> set[bytes]:
        return self.found.unstable


class ByComparison:
    """Copies what the mount shows otherwise than the head, and looks at the whole upper for it."""

    def __init__(self, ground: Ground, layer: bytes, making: Making, census: Census) -> None:
        self._ground = ground
        self._layer = layer
        self._making = making
        self._census = census
        self._delta = Delta(ground.upper.path, _nothing, census, ground.watch(layer))
        self._unstable: set[bytes] = set()
        self.found = self._delta.found

    def copy(self) -> None:
        # What is listed before it is compared is copied again, the next time, if it changed after.
        self._delta.run()
        self._delta.settle()
        self._census.paths.clear()
        self._lay(_ALL)

    def catch_up(self, *, frozen: bool) -> None:
        if frozen:
            self._delta.run()
        self._delta.settle()
        paths = tuple(dict.fromkeys(self._census.paths))
        for path in paths:
            self._making.clear(path)
            below = path + b"/"
            self._unstable = {
                each for each in self._unstable if not (each + b"/").startswith(below)
            }
        if paths:
            self._lay(paths)

    def _lay(self, paths: tuple[bytes, ...]) -> None:
        ground = self._ground
        after = (ground.upper, *ground.lowers)
        self._unstable |= lay(self._making, ground.head, after, paths, ground.tick)

    def finish(self) -> bool:
        return _finish(self._ground, self._layer, self._making)

    @property
    def unstable(self) -> set[bytes]:
        return self._unstable


def open_sealing(stack: ExitStack, ground: Ground, before: Before | None, layer: bytes) -> Sealing:
    """Return what fills the empty directory `layer`, good until `stack` is closed.

    `before` says what the upper held; None where nobody knows.
    """
    sources = (ground.upper, *ground.lowers) if before is None else (ground.upper,)
    trees = [tree.path for tree in sources]
    making = stack.enter_context(Making(layer, trees, ground.grain, ground.tick))
    if before is not None:
        return ByRecord(ground, before, layer, making)
    census = Census(ground.upper.path, ground.grain)
    stack.callback(census.close)
    return ByComparison(ground, layer, making, census)


def _finish(ground: Ground, layer: bytes, making: Making) -> bool:
    making.finish()
    copy_root(ground.upper.path, layer)
    mark_dressed(layer)
    return not making.is_empty or not is_like(layer, ground.head[0].path)


def _nothing(_path: bytes) -> Listing:
    return Listing()
