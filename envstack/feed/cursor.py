"""Cursors: a place in the journal of one environment, as text that nobody else need understand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from envstack.errors import UsageError
from envstack.store.journal import Position

if TYPE_CHECKING:
    from envstack.model import EnvId

_CURSOR = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{8})\.(\d{1,18})", re.ASCII)


def text(env: EnvId, position: Position) -> str:
    """Return the cursor of a place."""
    return f"{env}.{position.epoch}.{position.seq}"


def parse(env: EnvId, cursor: str) -> Position:
    """Return the place of a cursor. Raises UsageError for none, or one of another environment."""
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise UsageError(f"{cursor!r} is no cursor", "envstack sync prints one")
    if found[1] != env:
        raise UsageError(
            "the cursor is one of another environment, or of another store",
            "begin without: envstack watch",
        )
    return Position(found[2], int(found[3]))
