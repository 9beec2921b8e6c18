"""The store as one thing: its database and its layer directories, opened together."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from envstack.errors import Damaged
from envstack.linux.boot import boot_id
from envstack.model import Chain, LayerKind
from envstack.store.built import Built
from envstack.store.database import Database
from envstack.store.digests import Digests
from envstack.store.disk import Disk
from envstack.store.fingerprints import Fingerprints
from envstack.store.journal import JOURNAL, Journal
from envstack.store.layers import Layers
from envstack.store.operations import Operations
from envstack.store.risks import Risks
from envstack.store.seals import Seals
from envstack.store.trust import Trust

if TYPE_CHECKING:
    from types import TracebackType

    from envstack.model import Layer, LayerId


class Store:
    """A context manager over the store at `home`; `db` and `layers` are its two halves.

    `built`, `trust`, `digests`, `fingerprints`, `risks` and `operations` are parts of `db`;
    `journal` is what the feeds have told, `seals` what the uppers held; `disk` is what all lies on.
    """

    def __init__(self, home: bytes, journal: int = JOURNAL) -> None:
        """Open or make the store; `journal` is how many bytes each feed may keep."""
        self.home = home
        with suppress(FileExistsError):
            os.mkdir(home, 0o700)
        database = os.path.join(home, b"meta.db")
        _require_database(database, os.path.join(home, b"layers"))
        with ExitStack() as undo:
            # Before anything is written, so that no failure of that is missed.
            self.disk = Disk(home)
            undo.callback(self.disk.close)
            # Then the database: a store of a newer format is left untouched.
            self.db = Database(database)
            undo.callback(self.db.close)
            self.built = Built(self.db)
            self.trust = Trust(self.db)
            self.digests = Digests(self.db)
            self.risks = Risks(self.db)
            self.fingerprints = Fingerprints(self.db)
            self.operations = Operations(self.db)
            self.layers = Layers(home)
            self.journal = Journal(os.path.join(home, b"feed.db"), boot_id(), journal)
            undo.callback(self.journal.close)
            self.seals = Seals(os.path.join(home, b"seals.db"), boot_id())
            undo.callback(self.seals.close)
            undo.pop_all()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.seals.close()
        self.journal.close()
        self.db.close()
        self.disk.close()

    def tree(self, layer: Layer) -> bytes:
        """Return the directory that holds a layer's tree: the user's own for one by reference."""
        if layer.kind is LayerKind.DIR and layer.source is not None:
            return layer.source
        return self.layers.fs(layer.id)

    def trees(self, chain: Chain) -> tuple[bytes, ...]:
        """Return the directories of a chain, topmost first. Raises Damaged for an unknown layer."""
        return tuple(self.tree(layer) for layer in self.db.chain(chain))

    def discard(self, layer: LayerId) -> None:
        """Delete a layer's directory, then its row; may be repeated after an interruption."""
        self.layers.delete(layer)
        self.db.remove_layer(layer)


def _require_database(database: bytes, layers: bytes) -> None:
    """Raise Damaged if there are layers and nothing that knows them: a new database would not."""
    has_database = os.path.exists(database) and os.path.getsize(database) > 0
    if not has_database and os.path.isdir(layers) and os.listdir(layers):
        raise Damaged(
            f"the store has layers, and its database is gone: {os.fsdecode(database)}",
            "put back a copy of it, or move the store aside and start anew",
        )
