"""What the databases of the store have in common: how one is opened, made, and written to.

Each of them owns what is in it, its locks, and what is said of its errors.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def connect(path: bytes | os.PathLike[bytes]) -> sqlite3.Connection:
    """Return a connection that begins no transaction by itself, and that threads may hand on."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def prepare(connection: sqlite3.Connection, schema: str, version: int, synchronous: str) -> None:
    """Set a database up, and make it by the file `schema` where there is none as yet.

    `version` is the format that is written into a new one; of another one nothing is asked.
    """
    found = format_of(connection)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    if found == 0:
        text = resources.files(__package__).joinpath(schema).read_text()
        connection.executescript(
            f"BEGIN IMMEDIATE; {text} PRAGMA user_version = {version}; COMMIT;"
        )


def format_of(connection: sqlite3.Connection) -> int:
    """Return the format of a database, 0 for an empty one."""
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def require_format(connection: sqlite3.Connection, version: int) -> None:
    """Raise DatabaseError for a database that holds something in another format."""
    if (found := format_of(connection)) not in (0, version):
        raise sqlite3.DatabaseError(f"format {found}")


def open_or_replace(path: bytes, open_it: Callable[[], None]) -> None:
    """Open a database that can be done without; a damaged one is kept as `PATH.damaged`.

    Raises OperationalError for one that may be whole, and is out of reach for now.
    """
    try:
        open_it()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        for suffix in (b"", b"-wal", b"-shm"):
            with suppress(FileNotFoundError):
                os.replace(path + suffix, path + b".damaged" + suffix)
        open_it()


@contextmanager
def committed(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Give the connection for one transaction: committed when the context ends, or undone."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some failures have ended it already
            connection.execute("ROLLBACK")
        raise
