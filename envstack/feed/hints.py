"""Hints: where in an upper something may have changed. They say where to look, never what is so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = b"."


class Touch(Enum):
    """How much of the upper a hint is about."""

    ENTRY = auto()
    """The attributes or the content of that one entry."""
    TREE = auto()
    """The entry and all that is below it: it was added, removed or moved."""


@dataclass(frozen=True, slots=True)
class Hints:
    """Paths relative to the upper, ROOT itself included, each with what was touched there.

    `doubt` is why the whole upper is to be compared; None: it need not.
    """

    touched: Mapping[bytes, Touch]
    doubt: str | None = None


class Gathering:
    """Hints that are gathered until somebody takes them."""

    def __init__(self) -> None:
        self._touched: dict[bytes, Touch] = {}
        self._doubt: str | None = None

    @property
    def is_doubtful(self) -> bool:
        """Whether the whole upper is to be compared."""
        return self._doubt is not None

    @property
    def is_touched(self) -> bool:
        """Whether there is anything that is certain."""
        return bool(self._touched)

    def touch(self, touched: Mapping[bytes, Touch]) -> None:
        """Add what was touched; a tree remains a tree."""
        for path, touch in touched.items():
            if self._touched.get(path) is not Touch.TREE:
                self._touched[path] = touch

    def doubt(self, why: str) -> None:
        """Add a doubt; the first reason is the one that is told."""
        self._doubt = self._doubt or why

    def touched(self) -> Hints:
        """Take out what was touched, and leave the doubt."""
        hints = Hints(self._touched)
        self._touched = {}
        return hints

    def everything(self) -> Hints:
        """Take out all there is."""
        hints = Hints(self._touched, self._doubt)
        self._touched, self._doubt = {}, None
        return hints
