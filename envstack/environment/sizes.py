"""How much of the disk each environment takes: its own layers, those by reference aside.

A sealed layer never changes, so its size is remembered for good; an upper is counted anew each
time. A look has a bound in time, however many files there are: large layers are counted in the
background, and of a large upper it is known that it has at least so much.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.model import LayerKind, LayerState
from envstack.overlay.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from envstack.environment.context import Context
    from envstack.model import EnvId, Layer, LayerId

_SECONDS = 0.2
"""How long a look may take, for all environments together."""

_GROWING = frozenset({LayerState.UPPER, LayerState.SEALING})
_FINAL = frozenset({LayerState.SEALED, LayerState.UNSEALED})


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes on disk; unless `exact`, there are at least so many."""

    bytes: int
    exact: bool


class _EnoughError(Exception):
    """Counting takes too long, or nobody wants it any more."""


class Sizes:
    """Counts for `environments`, from any thread, until it is closed."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._known: dict[LayerId, int] = {}
        self._lock = threading.Lock()
        self._waiting: dict[LayerId, None] = {}
        self._is_counting = False
        self._closed = threading.Event()

    def close(self) -> None:
        """Let what is being counted in the background end."""
        self._closed.set()

    def of(self, envs: Iterable[EnvId]) -> dict[EnvId, Size | None]:
        """Return the size of each, None where a sealed layer is still to be counted."""
        began = time.monotonic()
        layers = {env: self._own_layers(env) for env in envs}
        half = _until(began + _SECONDS / 2)
        for layer in (layer for own in layers.values() for layer in own):
            if layer.state in _FINAL and layer.id not in self._known:
                self._learn(layer.id, half)
        whole = _until(began + _SECONDS)
        return {env: self._size(own, whole) for env, own in layers.items()}

    def _own_layers(self, env: EnvId) -> list[Layer]:
        found = self._ctx.store.db.layers(env)
        return [
            layer
            for layer in found
            if layer.kind is not LayerKind.DIR and layer.state in _GROWING | _FINAL
        ]

    def _size(self, layers: list[Layer], tick: Callable[[], None]) -> Size | None:
        total, exact = 0, True
        for layer in layers:
            if layer.state in _GROWING:
                counted = self._count(layer.id, tick)
                total += counted.bytes
                exact = exact and counted.exact
            elif (size := self._known.get(layer.id)) is not None:
                total += size
            else:
                return None
        return Size(total, exact)

    def _count(self, layer: LayerId, tick: Callable[[], None]) -> Size:
        """Count a layer until `tick` ends it; one that was deleted meanwhile has nothing."""
        usage = Usage()
        try:
            usage.add_tree(self._ctx.store.layers.fs(layer), tick)
        except _EnoughError:
            return Size(usage.bytes, exact=False)
        except FileNotFoundError:
            return Size(0, exact=True)
        return Size(usage.bytes, exact=True)

    def _learn(self, layer: LayerId, tick: Callable[[], None]) -> None:
        """Count a sealed layer, in the background if it takes too long."""
        counted = self._count(layer, tick)
        if counted.exact:
            self._known[layer] = counted.bytes
            return
        with self._lock:
            self._waiting[layer] = None
            if self._is_counting:
                return
            self._is_counting = True
        self._ctx.defer(self._count_waiting)

    def _count_waiting(self) -> bool:
        """Count one layer after another: one job at a time leaves room for those that seal."""
        while True:
            with self._lock:
                layer = next(iter(self._waiting), None)
                if layer is None or self._closed.is_set():
                    self._is_counting = False
                    return True
            counted = self._count(layer, self._check)
            if counted.exact:
                self._known[layer] = counted.bytes
            with self._lock:
                del self._waiting[layer]

    def _check(self) -> None:
        if self._closed.is_set():
            raise _EnoughError


def _until(deadline: float) -> Callable[[], None]:
    """Return what raises once `deadline`, of the monotonic clock, has passed."""

    def tick() -> None:
        if time.monotonic() > deadline:
            raise _EnoughError

    return tick
