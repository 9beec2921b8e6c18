"""What each environment's upper held when its head was sealed, directory by directory: `seals.db`.

A database of its own, as the journal of the feeds is: nothing in it is needed to bring a tree back,
and what it says is found anew by comparing trees. It is believed where it speaks of this upper on
these layers under the chain of this head, in the boot in which it was written: a crash between a
layer and its record, or a power cut, leaves a record that nobody believes.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envstack.store import sqlite
from envstack.store.faults import unusable
from envstack.store.records import dump_chain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from envstack.model import Chain, EnvId, LayerId

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Scene:
    """What a record speaks of: an upper on its layers, and the chain that shows the same."""

    env: EnvId
    upper: LayerId
    lowers: Chain
    chain: Chain


class Seals:
    """`seals.db`. Threads may share it: a lock admits one at a time."""

    def __init__(self, path: bytes, boot: str) -> None:
        """Open or make the database at `path`, in the boot of this id; a damaged one is made anew.

        Raises EnvstackError where there is no space, or no way to it.
        """
        self._path = path
        self._boot = boot
        self._lock = threading.RLock()
        with self._explained():
            sqlite.open_or_replace(path, self._open)

    def _open(self) -> None:
        self._connection = sqlite.connect(self._path)
        try:
            sqlite.require_format(self._connection, _FORMAT)
            sqlite.prepare(self._connection, "seals.sql", _FORMAT, "NORMAL")
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection; what was committed stays."""
        with self._lock:
            self._connection.close()

    def find(self, scene: Scene) -> int | None:
        """Return the number of the record that speaks of this, None where there is none."""
        query = (
            "SELECT number FROM seal WHERE env = ? AND upper = ? AND lowers = ? AND chain = ?"
            " AND boot = ?"
        )
        found = self._find(query, *_columns(scene), self._boot)
        return found[0][0] if found else None

    def directory(self, number: int, path: bytes) -> bytes | None:
        """Return what a record has of a directory."""
        query = "SELECT packed FROM directory WHERE seal = ? AND path = ?"
        found = self._find(query, number, path)
        return found[0][0] if found else None

    def begin(self, scene: Scene, directories: Mapping[bytes, bytes]) -> None:
        """Write a record, in place of the one that the environment has."""
        with self._transaction() as connection:
            _forget(connection, scene.env)
            number = connection.execute(
                "INSERT INTO seal (env, upper, lowers, chain, boot) VALUES (?, ?, ?, ?, ?)",
                (*_columns(scene), self._boot),
            ).lastrowid
            _put(connection, number, directories)

    def go_on(
        self, number: int, chain: Chain, gone: Iterable[bytes], directories: Mapping[bytes, bytes]
    ) -> None:
        """Let a record speak of another chain, with what is another since.

        Of the directories `gone`, and of all below them, first nothing is left.
        """
        with self._transaction() as connection:
            connection.execute(
                "UPDATE seal SET chain = ? WHERE number = ?", (dump_chain(chain), number)
            )
            connection.executemany(
                "DELETE FROM directory WHERE seal = ? AND (path = ? OR (path > ? AND path < ?))",
                ((number, path, path + b"/", path + b"0") for path in gone),
            )
            _put(connection, number, directories)

    def forget(self, env: EnvId) -> None:
        """Delete what there is of an environment."""
        with self._transaction() as connection:
            _forget(connection, env)

    def _find(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock, self._explained():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explained(), sqlite.committed(self._connection) as connection:
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            directory = os.path.dirname(self._path)
            raise unusable("the record of what was sealed", directory, error) from error


def _columns(scene: Scene) -> tuple[str, str, str, str]:
    return scene.env, scene.upper, dump_chain(scene.lowers), dump_chain(scene.chain)


def _forget(connection: sqlite3.Connection, env: EnvId) -> None:
    connection.execute(
        "DELETE FROM directory WHERE seal = (SELECT number FROM seal WHERE env = ?)", (env,)
    )
    connection.execute("DELETE FROM seal WHERE env = ?", (env,))


def _put(
    connection: sqlite3.Connection, number: int | None, directories: Mapping[bytes, bytes]
) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO directory VALUES (?, ?, ?)",
        ((number, path, packed) for path, packed in directories.items()),
    )
