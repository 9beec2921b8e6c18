"""Processes that stand still while something is done, and go on whatever becomes of who does it.

Owns the order: a guard is told before anybody is frozen, and not before all are thawed is it told
that this is done. Which processes, and in which way, is the groups' own business.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from envstack.errors import EnvstackError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_log = logging.getLogger(__name__)

_WITHIN = 0.5
"""Seconds: who cannot be frozen by then waits for a disk or a server, uninterruptibly."""


class Group(Protocol):
    """Processes that are frozen together."""

    @property
    def order(self) -> bytes:
        """How a guard is told of it."""

    def freeze(self) -> None:
        """Begin to freeze them. Raises OSError where that cannot be."""

    def stands_still(self, deadline: float) -> bool:
        """Wait until nobody runs; False where that is not so by then, on the monotonic clock."""

    def thaw(self) -> None:
        """Let them go on."""


class Guards(Protocol):
    """The way to a guard, which thaws when this process is no more."""

    def hold(self, order: bytes) -> None:
        """Give an order. Raises EnvstackError where there is no guard any more."""

    def free(self, order: bytes) -> None:
        """Take an order back."""


class Held:
    """What is held; asked while it is."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole

    def is_whole(self) -> bool:
        """Tell whether there was somebody, and nobody of them runs."""
        return self._whole


@contextmanager
def frozen(groups: Sequence[Group], guards: Guards, within: float = _WITHIN) -> Iterator[Held]:
    """Let nobody in `groups` go on while the context lasts.

    Whoever cannot be frozen `within` so many seconds goes on, and all the others with him: then
    what is held is not whole. Raises nothing of its own.
    """
    with ExitStack() as thawing:
        whole = bool(groups) and _freeze(groups, guards, within, thawing)
        if not whole:
            thawing.close()
        yield Held(whole=whole)


def _freeze(groups: Sequence[Group], guards: Guards, within: float, thawing: ExitStack) -> bool:
    deadline = time.monotonic() + within
    try:
        for group in groups:
            guards.hold(group.order)
            thawing.callback(_thaw, group, guards)
            group.freeze()
        return all(group.stands_still(deadline) for group in groups)
    except (EnvstackError, OSError) as error:
        _log.warning("what was started in the merged tree goes on: %s", error)
        return False


def _thaw(group: Group, guards: Guards) -> None:
    try:
        group.thaw()
        guards.free(group.order)
    except (EnvstackError, OSError) as error:
        _log.error("what stood still may do so until the daemon ends: %s", error)
