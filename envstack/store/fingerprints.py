"""What directories by reference looked like when they were last mounted. It looks at none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envstack.model import Fingerprint, LayerId
from envstack.store.records import dump_chain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from envstack.model import Chain
    from envstack.store.database import Database


class Fingerprints:
    """The table `fingerprint` of a database. A row goes with its layer."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, chain: Chain) -> dict[LayerId, Fingerprint]:
        """Return what there is of the layers of a chain."""
        query = (
            "SELECT layer, digest, entries, root, taken_ns FROM fingerprint"
            " WHERE layer IN (SELECT value FROM json_each(?))"
        )
        found = self._db.find(query, dump_chain(chain))
        return {LayerId(layer): Fingerprint(*rest) for layer, *rest in found}

    def put(self, found: Mapping[LayerId, Fingerprint]) -> None:
        """Write fingerprints down, each in place of the last; a layer that is gone is left out."""
        with self._db.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO fingerprint (layer, digest, entries, root, taken_ns)"
                " SELECT id, ?, ?, ?, ? FROM layer WHERE id = ?",
                [
                    (seen.digest, seen.entries, seen.root, seen.taken_ns, layer)
                    for layer, seen in found.items()
                ],
            )

    def forget(self, chain: Chain) -> None:
        """Forget what there is of the layers of a chain."""
        if self.of(chain):
            with self._db.transaction() as connection:
                connection.execute(
                    "DELETE FROM fingerprint WHERE layer IN (SELECT value FROM json_each(?))",
                    (dump_chain(chain),),
                )
