"""What archives of the user's own hold, as they were when they were last read. It reads none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envstack.store.database import Database


class Digests:
    """The table `digest` of a database: one row a path."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, path: bytes, identity: str) -> str | None:
        """Return the SHA-256 of the file at a path while it is the one that `identity` tells."""
        query = "SELECT sha256 FROM digest WHERE path = ? AND identity = ?"
        return next((str(row[0]) for row in self._db.find(query, path, identity)), None)

    def put(self, path: bytes, identity: str, sha256: str) -> None:
        """Write it down in place of what was known of the path."""
        with self._db.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO digest (path, identity, sha256) VALUES (?, ?, ?)",
                (path, identity, sha256),
            )
