"""Events as the journal holds them: the JSON object of the contract, without its place."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

from envstack.model import ChangeType
from envstack.rpc.feed import Changes, CheckpointMade, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from envstack.model import Change, Checkpoint
    from envstack.rpc.feed import Event

_MOST = 1000
"""Changes an event."""


def body(event: Event) -> str:
    """Return an event as text; its place is given by the journal."""
    shape = to_json(event)
    del shape["cursor"], shape["seq"]
    return json.dumps(shape, separators=(",", ":"))


def events(changes: Iterable[Change], cursor: str = "", seq: int = 0) -> Iterator[Changes]:
    """Return changes as events, in their order, as many of them in one as there may be."""
    rest = iter(changes)
    while some := tuple(islice(rest, _MOST)):
        yield Changes(cursor, seq, some)


def bodies(changes: Iterable[Change]) -> Iterator[str]:
    """Return changes as events as text."""
    return map(body, events(changes))


def sealed(checkpoint: Checkpoint) -> str:
    """Return the event of a checkpoint that was made."""
    return body(CheckpointMade("", 0, checkpoint.id, checkpoint.message, checkpoint.mode))


def in_telling_order(changes: Iterable[Change]) -> list[Change]:
    """Return changes, which come sorted by path, with what is deleted first and deepest first."""
    gone: list[Change] = []
    rest: list[Change] = []
    for change in changes:
        (gone if change.change is ChangeType.DELETED else rest).append(change)
    return [*reversed(gone), *rest]
