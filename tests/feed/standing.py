"""An environment in a store of its own, followed without a daemon, a watcher or a mount."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from envstack.feed.follower import Follower, Views
from envstack.model import EnvId, Environment, Layer, LayerId, LayerKind, LayerState
from envstack.overlay.merged import LayerTree
from envstack.store.records import Op, Transition

if TYPE_CHECKING:
    from envstack.store.store import Store

ENV = EnvId("00000000000000aa")
_AT = "2026-01-01T00:00:00Z"


class Standing:
    """One upper on one lower layer, both plain directories here; what is told has no place."""

    def __init__(self, store: Store, place: Path) -> None:
        self.store = store
        self.lower = place / "lower"
        self.lower.mkdir()
        lower = Layer(LayerId("cccccccccccccccc"), LayerKind.DIR, LayerState.SEALED)
        lower = replace(lower, source=bytes(self.lower))
        store.db.add_layer(ENV, lower)
        upper = self._make_upper("1111111111111111")
        where = {"stack_path": b"/p/s.yaml", "project": b"/p", "mount": b"/p/m"}
        self.env = Environment(
            ENV,
            "env",
            **where,
            stack="",
            base=(lower.id,),
            upper=upper,
            lowers=(lower.id,),
            head=None,
            wanted=True,
            created_at=_AT,
        )
        self.commit(Op.UP, self.env)

    @property
    def upper(self) -> Path:
        return self.path(self.env.upper)

    def path(self, layer: LayerId) -> Path:
        """Return the directory of a layer in the store."""
        return Path(os.fsdecode(self.store.layers.fs(layer)))

    def rotate(self) -> None:
        """Seal the upper and put a fresh one on top, as far as the books go."""
        number = int(self.env.upper, 16) + 1
        upper, lowers = self._make_upper(f"{number:016x}"), (self.env.upper, *self.env.lowers)
        self.env = replace(self.env, upper=upper, lowers=lowers)
        self.commit(Op.REBUILD, self.env)

    def commit(self, op: Op, after: Environment) -> None:
        """Let `after` be what the environment is."""
        self.store.db.begin(Transition(op, after))
        self.store.db.commit(Transition(op, after), _AT)

    def follower(self, grain: int = 0) -> Follower:
        """Return a follower, as a daemon that was started anew has it."""
        views = Views(
            self._tree,
            lambda chain: tuple(map(self._tree, chain)),
            held=lambda: None,
            merged=lambda: None,
        )
        return Follower(self.store, ENV, views, grain, lambda: None)

    def told(self) -> list[tuple[str, str]]:
        """Return all changes that the journal holds."""
        bodies = self.store.journal.find("SELECT body FROM event ORDER BY seq")
        events = [json.loads(body) for (body,) in bodies]
        rows = [row for event in events for row in event.get("changes", ())]
        return [(row["change"], row["path"]) for row in rows]

    def _make_upper(self, name: str) -> LayerId:
        layer = Layer(LayerId(name), LayerKind.UPPER, LayerState.UPPER)
        self.store.db.add_layer(ENV, layer)
        self.store.layers.make_upper(layer.id, {})
        return layer.id

    def _tree(self, layer: LayerId) -> LayerTree:
        (path,) = self.store.trees((layer,))
        return LayerTree(path)
