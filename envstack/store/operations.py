"""What was done to environments, in order: the rows of `ops`, as the feed and undo read them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envstack.model import Chain, CheckpointId, LayerId
from envstack.store.records import Op

if TYPE_CHECKING:
    from envstack.model import EnvId
    from envstack.store.database import Database


@dataclass(frozen=True, slots=True)
class Standing:
    """What an environment stood on."""

    head: CheckpointId | None
    upper: LayerId
    lowers: Chain
    wanted: bool


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of state that was committed, from what to what; `number` grows with time."""

    number: int
    op: Op
    before: Standing
    after: Standing


class Operations:
    """The table `ops` of a database; `Database.commit` writes it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def after(self, env: EnvId, number: int) -> list[Operation]:
        """Return what was done to an environment after the operation `number`, in order."""
        query = "SELECT seq, op, before, after FROM ops WHERE env = ? AND seq > ? ORDER BY seq"
        return [
            Operation(found, Op(op), _standing(before), _standing(after))
            for found, op, before, after in self._db.find(query, env, number)
        ]

    def op(self, number: int) -> Op | None:
        """Return what the operation `number` was, None if there is none."""
        found = self._db.find("SELECT op FROM ops WHERE seq = ?", number)
        return Op(found[0][0]) if found else None

    def last(self, env: EnvId) -> int:
        """Return the number of what was done last to an environment, 0 where nothing was."""
        query = "SELECT coalesce(max(seq), 0) FROM ops WHERE env = ?"
        number: int = self._db.find(query, env)[0][0]
        return number


def _standing(text: str) -> Standing:
    raw: dict[str, Any] = json.loads(text)
    chain = tuple(LayerId(layer) for layer in raw["lowers"])
    return Standing(raw["head"], LayerId(raw["upper"]), chain, bool(raw["wanted"]))
