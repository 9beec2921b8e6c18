"""Layers of stack files that are built already: who may take one, and whose it is then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envstack.store import rows

if TYPE_CHECKING:
    from envstack.model import EnvId, Layer, LayerId
    from envstack.store.database import Database

_BUILT = "key IS NOT NULL AND state = 'sealed'"
_NOBODYS = "env NOT IN (SELECT id FROM environment)"


class Built:
    """Rows of the table `layer` of a database that have a key, and are whole."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, env: EnvId) -> list[Layer]:
        """Return the layers that this environment may take: its own, and nobody's.

        Nobody's are those of an environment that never came up, or is gone.
        """
        query = f"SELECT {rows.LAYER} FROM layer WHERE {_BUILT} AND (env = ? OR {_NOBODYS})"
        return [rows.layer(row) for row in self._db.find(query, env)]

    def adopt(self, layer: LayerId, env: EnvId, name: str) -> bool:
        """Make one of the layers `of` an environment its own, by the name that it has there.

        False if it has gone by now. Until a first `up` is begun another one may take what it has
        built: see `Database.begin`.
        """
        with self._db.transaction() as connection:
            done = connection.execute(
                f"UPDATE layer SET env = ?1, name = ?3 WHERE id = ?2 AND {_BUILT}"
                f" AND (env = ?1 OR {_NOBODYS})",
                (env, layer, name),
            )
            return done.rowcount == 1
