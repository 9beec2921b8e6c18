"""The journal of every environment's feed, and the index of what it has told: `feed.db`.

A database of its own, because its promise is another one than that of `meta.db`: nothing in it is
needed to bring a tree back, and a commit must not wait for the disk (WAL with synchronous=NORMAL).
What a power cut takes is the end of the journal with the index of the same moment: the next look at
the disk tells it anew, under another epoch. It holds what was told; what is true is on the disk.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from envstack.errors import EnvstackError
from envstack.model import Chain, EnvId, LayerId, new_id
from envstack.store import sqlite
from envstack.store.faults import unusable
from envstack.store.records import dump_chain, load_chain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FORMAT = 2
JOURNAL = 64 << 20
"""Bytes of events that are kept for an environment."""

_KEPT = 0.9
"""Of the limit, when it was passed: so that not every event has an old one to delete."""

_CHECKPOINT_PAGES = 8000
"""Pages that the write-ahead log may grow to before a commit waits for the disk: 32 MiB."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a journal: after the event `seq`, whose number counts in `epoch`."""

    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Told:
    """One event as it was told: a JSON object without its place."""

    position: Position
    body: str


@dataclass(frozen=True, slots=True)
class Followed:
    """How far the feed of an environment has come; `ops` is the number of an `Operation`."""

    env: EnvId
    upper: LayerId
    lowers: Chain
    ops: int
    seq: int
    number: int


@dataclass(frozen=True, slots=True)
class Row:
    """An entry of the index; `digest` is set where the bytes of a file may change unseen."""

    facts: bytes
    ino: int
    digest: bytes | None = None


@dataclass(slots=True)
class Batch:
    """Events, and what the index says after them: written together or not at all.

    `rows` is by directory and name, None for what is gone. `moved` is set when another upper on
    another chain is followed from now on, with an index that begins empty; `ops` when an operation
    was told.
    """

    bodies: list[str] = field(default_factory=list)
    rows: dict[tuple[bytes, bytes], Row | None] = field(default_factory=dict)
    moved: tuple[LayerId, Chain] | None = None
    ops: int | None = None


class Journal:
    """`feed.db`. Threads may share it: one writes at a time, and readers wait for no writer."""

    def __init__(self, path: bytes, boot: str, limit: int = JOURNAL) -> None:
        """Open or make the database at `path`, in the boot of this id.

        One that cannot be read is moved aside, and all is told anew from now on. Raises
        EnvstackError where there is no space, or no way to it.
        """
        self._path = path
        self._boot = boot
        self._limit = limit
        self._writing = threading.RLock()
        self._reading = threading.Lock()
        with self._explained():
            sqlite.open_or_replace(path, self._open)

    def _open(self) -> None:
        self._writer = sqlite.connect(self._path)
        try:
            self._prepare()
            self._reader = sqlite.connect(self._path)
        except BaseException:
            self._writer.close()
            raise

    def _prepare(self) -> None:
        sqlite.require_format(self._writer, _FORMAT)
        sqlite.prepare(self._writer, "feed.sql", _FORMAT, "NORMAL")
        self._writer.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        self._writer.execute(
            "INSERT INTO epoch SELECT number, seq, lower(hex(randomblob(4))), ?1 FROM followed"
            " WHERE ?1 <> (SELECT boot FROM epoch WHERE epoch.followed = number"
            " ORDER BY first DESC LIMIT 1)"
            " ON CONFLICT (followed, first) DO UPDATE SET id = excluded.id, boot = excluded.boot",
            (self._boot,),
        )

    def close(self) -> None:
        """Close the connections; what was committed stays."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()

    def followed(self, env: EnvId) -> Followed | None:
        """Return how far the feed of an environment has come; None where it was never begun."""
        found = self.find("SELECT upper, lowers, ops, seq, number FROM followed WHERE env = ?", env)
        if not found:
            return None
        upper, lowers, *rest = found[0]
        return Followed(env, upper, load_chain(lowers), *rest)

    def environments(self) -> list[EnvId]:
        """Return the environments of all feeds."""
        return [EnvId(env) for (env,) in self.find("SELECT env FROM followed")]

    def needs(self, layer: LayerId) -> bool:
        """Tell whether a feed may have yet to compare a layer with what came after it."""
        query = "SELECT 1 FROM followed WHERE upper = ?1 OR instr(lowers, ?1)"
        return bool(self.find(query, layer))

    def begin(self, env: EnvId, upper: LayerId, lowers: Chain, ops: int) -> Followed:
        """Begin the feed of an environment, or begin it anew: no earlier place can be read on."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO followed (env, upper, lowers, ops, seq, bytes)"
                " VALUES (?1, ?2, ?3, ?4, 0, 0)"
                " ON CONFLICT (env) DO UPDATE SET upper = ?2, lowers = ?3, ops = ?4, bytes = 0",
                (env, upper, dump_chain(lowers), ops),
            )
            number, seq = connection.execute(
                "SELECT number, seq FROM followed WHERE env = ?", (env,)
            ).fetchone()
            _empty(connection, number)
            connection.execute(
                "INSERT INTO epoch VALUES (?, ?, ?, ?)", (number, seq, new_id()[:8], self._boot)
            )
        return Followed(env, upper, lowers, ops, seq, number)

    def forget(self, env: EnvId) -> None:
        """Delete all there is of an environment."""
        followed = self.followed(env)
        if followed is not None:
            with self.transaction() as connection:
                _empty(connection, followed.number)
                connection.execute("DELETE FROM followed WHERE env = ?", (env,))

    def write(self, followed: Followed, batch: Batch) -> Followed:
        """Append a batch, and return how far the feed has come with it.

        Raises EnvstackError where the feed was forgotten meanwhile, or cannot be written to.
        """
        upper, lowers = batch.moved or (followed.upper, followed.lowers)
        ops = followed.ops if batch.ops is None else batch.ops
        seq, size = followed.seq + len(batch.bodies), sum(map(len, batch.bodies))
        with self.transaction() as connection:
            found = connection.execute(
                "UPDATE followed SET upper = ?, lowers = ?, ops = ?, seq = ?, bytes = bytes + ?"
                " WHERE number = ?",
                (upper, dump_chain(lowers), ops, seq, size, followed.number),
            )
            if found.rowcount == 0:
                raise EnvstackError(f"the feed of {followed.env} is no more")
            connection.executemany(
                "INSERT INTO event VALUES (?, ?, ?)",
                (
                    (followed.number, followed.seq + 1 + at, body)
                    for at, body in enumerate(batch.bodies)
                ),
            )
            _write_rows(connection, followed.number, batch)
            self._trim(connection, followed.number)
        return Followed(followed.env, upper, lowers, ops, seq, followed.number)

    def end(self, env: EnvId) -> Position | None:
        """Return the place after the last event; None where the feed was never begun."""
        found = self.find(
            "SELECT epoch.id, seq FROM followed JOIN epoch ON epoch.followed = number"
            " WHERE env = ? ORDER BY first DESC LIMIT 1",
            env,
        )
        return Position(*found[0]) if found else None

    def after(self, env: EnvId, place: Position, most: int) -> list[Told] | None:
        """Return the events after `place`, at most `most`; None where it is out of reach.

        So for a place that nobody ever told, or that the journal has forgotten.
        """
        found = self.find(
            "SELECT number, seq,"
            " coalesce((SELECT min(seq) FROM event WHERE event.followed = number), seq + 1)"
            " FROM followed WHERE env = ?",
            env,
        )
        if not found:
            return None
        number, last, oldest = found[0]
        epochs = self.find("SELECT first, id FROM epoch WHERE followed = ? ORDER BY first", number)
        bounds = [*(first for first, _ in epochs[1:]), last]
        known = any(
            identity == place.epoch and first <= place.seq <= bound
            for (first, identity), bound in zip(epochs, bounds, strict=True)
        )
        if not known or place.seq < oldest - 1:
            return None
        rows = self.find(
            "SELECT seq, body FROM event WHERE followed = ? AND seq > ? ORDER BY seq LIMIT ?",
            *(number, place.seq, most),
        )
        return [Told(Position(_epoch_of(seq, epochs), seq), body) for seq, body in rows]

    def find(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what a query finds in what is committed."""
        with self._reading, self._explained():
            return self._reader.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection that writes; committed when the context ends."""
        with self._writing, self._explained(), sqlite.committed(self._writer) as connection:
            yield connection

    def tidy(self) -> None:
        """Bring the write-ahead log into the database, in a quiet moment, as far as none reads."""
        with self._writing, self._explained():
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            directory = os.path.dirname(self._path)
            raise unusable("the journal of the feeds", directory, error) from error

    def _trim(self, connection: sqlite3.Connection, number: int) -> None:
        """Forget the oldest events where there are more bytes of them than are kept."""
        query = "SELECT bytes FROM followed WHERE number = ?"
        size = connection.execute(query, (number,)).fetchone()[0]
        if size <= self._limit:
            return
        query = "SELECT seq, length(body) FROM event WHERE followed = ? ORDER BY seq"
        for seq, length in connection.execute(query, (number,)):
            if size <= self._limit * _KEPT:
                break
            size -= length
            last = seq
        connection.execute("DELETE FROM event WHERE followed = ? AND seq <= ?", (number, last))
        connection.execute("UPDATE followed SET bytes = ? WHERE number = ?", (size, number))
        connection.execute(
            "DELETE FROM epoch WHERE followed = ?1 AND first < (SELECT max(first) FROM epoch"
            " WHERE followed = ?1 AND first <= ?2)",
            (number, last),
        )


def _write_rows(connection: sqlite3.Connection, number: int, batch: Batch) -> None:
    if batch.moved is not None:
        connection.execute("DELETE FROM entry WHERE followed = ?", (number,))
    connection.executemany(
        "DELETE FROM entry WHERE followed = ? AND dir = ? AND name = ?",
        ((number, *place) for place, row in batch.rows.items() if row is None),
    )
    connection.executemany(
        "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?)",
        (
            (number, *place, row.facts, row.ino, row.digest)
            for place, row in batch.rows.items()
            if row is not None
        ),
    )


def _empty(connection: sqlite3.Connection, number: int) -> None:
    for table in ("epoch", "event", "entry"):
        connection.execute(f"DELETE FROM {table} WHERE followed = ?", (number,))


def _epoch_of(seq: int, epochs: Sequence[tuple[int, str]]) -> str:
    return next(identity for first, identity in reversed(epochs) if first < seq)
