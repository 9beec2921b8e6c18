"""What a power cut may harm: the sealed layers that are not durable yet, and what each held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envstack.model import AtRisk, Extent, LayerId, LayerState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envstack.store.database import Database


class Risks:
    """Columns of the tables `layer` and `checkpoint`; a layer comes in when it is sealed."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def all(self) -> list[AtRisk]:
        """Return the sealed layers that nobody has made durable, oldest first."""
        query = (
            "SELECT id, boot, files, bytes FROM layer"
            " WHERE boot IS NOT NULL AND state <> ? ORDER BY rowid"
        )
        return [
            AtRisk(LayerId(layer), boot, None if files is None else Extent(files, size))
            for layer, boot, files, size in self._db.find(query, LayerState.DISCARDED)
        ]

    def measured(self, layer: LayerId, extent: Extent) -> None:
        """Write down what a layer holds."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE layer SET files = ?, bytes = ? WHERE id = ?",
                (extent.files, extent.bytes, layer),
            )

    def found_whole(self, layer: LayerId, boot: str) -> None:
        """Say that a layer is whole in a later boot, and as much at risk in it."""
        with self._db.transaction() as connection:
            connection.execute("UPDATE layer SET boot = ? WHERE id = ?", (boot, layer))

    def over(self, layers: Iterable[LayerId]) -> None:
        """Say that layers are durable."""
        with self._db.transaction() as connection:
            connection.executemany(
                "UPDATE layer SET boot = NULL WHERE id = ?", [(layer,) for layer in layers]
            )

    def condemn(self, layer: LayerId, damage: str) -> None:
        """Say of each checkpoint so far that stands on a layer what is wrong with it.

        What is sealed on it from now on is that what is there.
        """
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE checkpoint SET damage = ? WHERE damage IS NULL AND instr(chain, ?)",
                (damage, layer),
            )
            connection.execute("UPDATE layer SET boot = NULL WHERE id = ?", (layer,))
