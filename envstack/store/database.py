"""The metadata: environments, layers, checkpoints, the one open intent of each environment.

One connection and one writer; each method that writes is one transaction, durable when it returns
(WAL with synchronous=FULL). The methods say what is; none of them looks at the disk or a mount.
"""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from envstack.errors import Damaged, NotFound, StateError
from envstack.model import (
    Chain,
    Checkpoint,
    CheckpointId,
    Counts,
    EnvId,
    Environment,
    Layer,
    LayerId,
    LayerState,
)
from envstack.store import rows, sqlite
from envstack.store.ballast import Ballast
from envstack.store.faults import unusable, without_space
from envstack.store.records import (
    Op,
    Transition,
    dump_chain,
    dump_transition,
    load_transition,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NAME = "the store's database"

_NEEDED = 1 << 17
"""Bytes that a change of state takes at the most, its rows and the directories of an upper."""

FORMAT = 3
"""`PRAGMA user_version` of the stores that this version writes."""


class Database:
    """`meta.db`. Threads may share it: a lock admits one at a time."""

    def __init__(self, path: bytes | os.PathLike[bytes]) -> None:
        """Open or make the database at `path`. Raises Damaged for a newer or unreadable one."""
        self._lock = threading.RLock()
        self._path = os.fsencode(path)
        self._directory = os.path.dirname(self._path)
        self._ballast = Ballast(self._directory)
        with self._explained():
            _require_known_format(self._path)
            self._connection = sqlite.connect(path)
        try:
            self._ballast.hold()
            with self._explained():
                sqlite.prepare(self._connection, "schema.sql", FORMAT, "FULL")
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection; what was committed stays."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for one transaction, durable when the context ends."""
        with self._lock:
            self._ballast.hold()
            try:
                with sqlite.committed(self._connection) as connection:
                    yield connection
            except sqlite3.OperationalError as error:
                raise unusable(_NAME, self._directory, error) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise Damaged for what is no whole database, EnvstackError for one out of reach."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise unusable(_NAME, self._directory, error) from error
        except sqlite3.DatabaseError as error:
            raise Damaged(
                f"the store's database cannot be read: {error}",
                "put back a copy of meta.db, or move the store aside and start anew",
            ) from error

    @property
    def is_short_of_space(self) -> bool:
        """Whether the file system of the store is as good as full."""
        return self._ballast.is_tight

    def hold_space(self) -> bool:
        """Hold the ballast if there is space to spare; tell whether it is held."""
        return self._ballast.hold()

    @property
    def has_ample_space(self) -> bool:
        """Whether there is space to spare on the file system of the store."""
        return self._ballast.is_ample

    def require_space(self) -> None:
        """Let the ballast go if space is short; raise EnvstackError where that is not enough.

        For what a user asks for: before the first row of a change of state is written.
        """
        if not self._ballast.release(_NEEDED):
            raise without_space(self._directory, "a change of state would not fit")

    def find(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        with self._lock, self._explained():
            return self._connection.execute(query, values).fetchall()

    def environments(self) -> list[Environment]:
        """Return every environment, oldest first."""
        query = f"SELECT {rows.ENVIRONMENT} FROM environment ORDER BY created_at, id"
        return [rows.environment(row) for row in self.find(query)]

    def chain(self, chain: Chain) -> list[Layer]:
        """Return the layers of a chain in its order. Raises Damaged if one has no row."""
        query = f"SELECT {rows.LAYER} FROM layer WHERE id IN (SELECT value FROM json_each(?))"
        found = {row[0]: rows.layer(row) for row in self.find(query, dump_chain(chain))}
        for layer in chain:
            if layer not in found:
                raise Damaged(
                    f"layer {layer} is missing from the store's database", "put back a copy of it"
                )
        return [found[layer] for layer in chain]

    def environment(self, env: EnvId) -> Environment:
        """Return one environment. Raises NotFound if no row has that id."""
        for row in self.environments():
            if row.id == env:
                return row
        raise NotFound(f"no environment has the id {env}", "envstack ls")

    def knows(self, env: EnvId) -> bool:
        """Tell whether the environment is still there: background work may outlive it."""
        return bool(self.find("SELECT 1 FROM environment WHERE id = ?", env))

    def find_layer(self, layer: LayerId) -> Layer | None:
        """Return one layer, or None if no row has that id."""
        found = self.find(f"SELECT {rows.LAYER} FROM layer WHERE id = ?", layer)
        return rows.layer(found[0]) if found else None

    def layers(self, env: EnvId | None = None) -> list[Layer]:
        """Return the layers of one environment, or of all."""
        query = f"SELECT {rows.LAYER} FROM layer WHERE ?1 IS NULL OR env = ?1"
        return [rows.layer(row) for row in self.find(query, env)]

    def checkpoints(self, env: EnvId) -> list[Checkpoint]:
        """Return the environment's checkpoints, newest first."""
        query = f"SELECT {rows.CHECKPOINT} WHERE checkpoint.env = ? ORDER BY seq DESC"
        return [rows.checkpoint(row) for row in self.find(query, env)]

    def checkpoint(self, checkpoint: CheckpointId) -> Checkpoint:
        """Return one checkpoint. Raises NotFound if no row has that id."""
        found = self.find(f"SELECT {rows.CHECKPOINT} WHERE checkpoint.id = ?", checkpoint)
        if not found:
            raise NotFound(f"checkpoint {checkpoint} is gone", "envstack log")
        return rows.checkpoint(found[0])

    def checkpoints_on(self, layer: LayerId) -> list[Checkpoint]:
        """Return the checkpoints whose topmost layer this is."""
        query = f"SELECT {rows.CHECKPOINT} WHERE json_extract(chain, '$[0]') = ? ORDER BY seq"
        return [rows.checkpoint(row) for row in self.find(query, layer)]

    def history(self) -> set[LayerId]:
        """Return every layer that a checkpoint stands on."""
        return {
            layer
            for (layer,) in self.find("SELECT DISTINCT value FROM checkpoint, json_each(chain)")
        }

    def uncounted(self) -> list[Checkpoint]:
        """Return the checkpoints whose changes nobody has counted."""
        query = f"SELECT {rows.CHECKPOINT} WHERE added IS NULL ORDER BY seq"
        return [rows.checkpoint(row) for row in self.find(query)]

    def intent(self, env: EnvId) -> Transition | None:
        """Return what was begun on the environment and neither committed nor abandoned."""
        found = self.find("SELECT transition FROM intent WHERE env = ?", env)
        return load_transition(found[0][0]) if found else None

    def add_layer(self, env: EnvId, layer: Layer) -> None:
        """Insert one layer."""
        with self.transaction() as connection:
            connection.execute(
                f"INSERT INTO layer (env, {rows.LAYER}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (env, *dataclasses.astuple(layer)),
            )

    def set_layer_state(self, layer: LayerId, state: LayerState) -> None:
        """Change where a layer is in its life."""
        with self.transaction() as connection:
            _set_states(connection, {layer: state})

    def remove_layer(self, layer: LayerId) -> None:
        """Forget a layer whose directory is gone."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM layer WHERE id = ?", (layer,))

    def set_counts(self, checkpoint: CheckpointId, counts: Counts) -> None:
        """Write down what a checkpoint changed against its parent."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE checkpoint SET added = ?, modified = ?, deleted = ? WHERE id = ?",
                (counts.added, counts.modified, counts.deleted, checkpoint),
            )

    def begin(self, transition: Transition) -> None:
        """Write down an intent, before anything is done about it.

        A first `up` finds no environment to belong to: it is inserted, not wanted as yet. That a
        rollback in place begins is noted in `ops` with it. Raises
        StateError where another environment has the mount point, or has adopted a layer meanwhile,
        EnvstackError where there is too little space to commit it: what was begun and cannot be
        committed is half a change.
        """
        self.require_space()
        env = transition.after
        try:
            with self.transaction() as connection:
                connection.execute(
                    "INSERT INTO intent (env, transition) VALUES (?, ?)",
                    (env.id, dump_transition(transition)),
                )
                connection.execute(
                    f"INSERT OR IGNORE INTO environment ({rows.ENVIRONMENT})"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
                    rows.columns(env)[:10] + rows.columns(env)[11:],
                )
                if not connection.execute(
                    "SELECT 1 FROM environment WHERE id = ?", (env.id,)
                ).fetchone():
                    raise sqlite3.IntegrityError("environment.mount")
                _require_own(connection, env)
                _note_beginning(connection, transition)
        except sqlite3.IntegrityError as error:
            self.require_free(env)
            raise StateError(f"environment {env.name!r} is at work", "try again") from error

    def require_free(self, env: Environment) -> None:
        """Raise StateError where another environment has the mount point of `env`."""
        for other in self.environments():
            if other.mount == env.mount and other.id != env.id:
                raise StateError(
                    f"the mount point {os.fsdecode(env.mount)} is that of environment"
                    f" {other.name!r} ({os.fsdecode(other.stack_path)})",
                    "choose another `mount` in one of the two stack files",
                )

    def commit(self, transition: Transition, at: str) -> None:
        """Make a transition the truth, close its intent and write the row in `ops`."""
        env = transition.after
        with self.transaction() as connection:
            before = connection.execute(
                "SELECT json_object('head', head, 'upper', upper, 'lowers', json(lowers),"
                " 'wanted', wanted) FROM environment WHERE id = ?",
                (env.id,),
            ).fetchone()[0]
            columns = rows.columns(env)
            connection.execute(
                f"UPDATE environment SET ({rows.ENVIRONMENT})"
                " = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE id = ?",
                (*columns, env.id),
            )
            _set_states(connection, transition.states)
            connection.executemany(
                "UPDATE layer SET boot = ? WHERE id = ?",
                [(transition.boot, layer) for layer in transition.sealed],
            )
            if transition.checkpoint:
                _insert_checkpoint(connection, transition.checkpoint)
            connection.execute("DELETE FROM intent WHERE env = ?", (env.id,))
            connection.execute(
                "INSERT INTO ops (env, op, before, after, at) SELECT id, ?, ?, json_object("
                "'head', head, 'upper', upper, 'lowers', json(lowers), 'wanted', wanted), ?"
                " FROM environment WHERE id = ?",
                (transition.op, before, at, env.id),
            )

    def abandon(self, env: EnvId, discarded: Iterable[LayerId]) -> None:
        """Close an intent as if it had not been; `discarded` are the layers made for it."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM intent WHERE env = ?", (env,))
            _set_states(connection, dict.fromkeys(discarded, LayerState.DISCARDED))

    def purge(self, env: EnvId) -> None:
        """Forget an environment and its history; its layers may be deleted from here on."""
        self.require_space()
        with self.transaction() as connection:
            for table in ("intent", "checkpoint", "ops"):
                connection.execute(f"DELETE FROM {table} WHERE env = ?", (env,))
            connection.execute("DELETE FROM environment WHERE id = ?", (env,))
            connection.execute(
                "UPDATE layer SET state = ? WHERE env = ?", (LayerState.DISCARDED, env)
            )


def _require_known_format(path: bytes) -> None:
    """Raise Damaged for a newer store.

    Read-only, because closing the last connection that may write would move what the newer daemon
    committed last from its write-ahead log into the database (sqlite.org/wal.html).
    """
    if not os.path.exists(path):
        return
    # Without a log, `immutable` keeps SQLite from making one beside the database.
    how = "mode=ro" if os.path.exists(path + b"-wal") else "immutable=1"
    with closing(sqlite3.connect(f"file:{quote(path)}?{how}", uri=True)) as connection:
        found = sqlite.format_of(connection)
    if found not in (0, FORMAT):
        raise Damaged(
            f"the store has format {found}; this version of envstack knows {FORMAT}",
            "use the envstack that wrote it, or move the store aside",
        )


def _require_own(connection: sqlite3.Connection, env: Environment) -> None:
    """Raise StateError for a base that is not all of the environment's own.

    Until a first `up` is begun, what it has built is nobody's, and another may take it.
    """
    query = "SELECT 1 FROM layer WHERE env <> ? AND id IN (SELECT value FROM json_each(?))"
    if connection.execute(query, (env.id, dump_chain(env.base))).fetchone():
        raise StateError(
            "another environment took a layer that was built for this one", "try again"
        )


def _note_beginning(connection: sqlite3.Connection, transition: Transition) -> None:
    """Write the row in `ops` for the beginning of a rollback that keeps its upper."""
    if transition.op is Op.ROLLBACK:
        connection.execute(
            "INSERT INTO ops (env, op, before, after, at) SELECT id, ?, json_object("
            "'head', head, 'upper', upper, 'lowers', json(lowers), 'wanted', wanted), json_object("
            "'head', ?, 'upper', upper, 'lowers', json(lowers), 'wanted', wanted),"
            " strftime('%Y-%m-%dT%H:%M:%fZ', 'now') FROM environment WHERE id = ? AND upper = ?",
            (
                *(Op.ROLLBACK_BEGIN, transition.after.head),
                *(transition.after.id, transition.after.upper),
            ),
        )


def _set_states(connection: sqlite3.Connection, states: dict[LayerId, LayerState]) -> None:
    connection.executemany(
        "UPDATE layer SET state = ? WHERE id = ?",
        [(state, layer) for layer, state in states.items()],
    )


def _insert_checkpoint(connection: sqlite3.Connection, row: Checkpoint) -> None:
    counts = row.changes
    connection.execute(
        "INSERT INTO checkpoint (id, env, parent, message, tag, created_at, mode, chain,"
        " added, modified, deleted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(row.id, row.env, row.parent, row.message, row.tag, row.created_at, row.mode),
            dump_chain(row.chain),
            *((counts.added, counts.modified, counts.deleted) if counts else (None, None, None)),
        ),
    )
