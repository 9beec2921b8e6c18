"""Which commands of which stack files somebody said yes to. It judges nothing: it remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envstack.model import Trusted

if TYPE_CHECKING:
    from envstack.store.database import Database


class Trust:
    """The table `trust` of a database. It outlives the environments: what was read stays read."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, stack_path: bytes, digest: str, at: str) -> None:
        """Remember a yes; one that is there already stays as it is."""
        with self._db.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO trust (stack_path, digest, at) VALUES (?, ?, ?)",
                (stack_path, digest, at),
            )

    def has(self, stack_path: bytes, digest: str) -> bool:
        """Tell whether somebody said yes to this content at this path."""
        query = "SELECT 1 FROM trust WHERE stack_path = ? AND digest = ?"
        return bool(self._db.find(query, stack_path, digest))

    def all(self) -> list[Trusted]:
        """Return every yes, by path, oldest first."""
        query = "SELECT stack_path, digest, at FROM trust ORDER BY stack_path, at"
        return [Trusted(*row) for row in self._db.find(query)]

    def revoke(self, stack_path: bytes) -> int:
        """Forget every yes for a stack file, and return how many there were."""
        with self._db.transaction() as connection:
            done = connection.execute("DELETE FROM trust WHERE stack_path = ?", (stack_path,))
            return done.rowcount
