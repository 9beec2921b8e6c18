"""A change of state as a value that fits into the database: written before it is acted upon."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from envstack.model import (
    Chain,
    Checkpoint,
    CheckpointId,
    Counts,
    EnvId,
    Environment,
    LayerId,
    LayerState,
)


class Op(StrEnum):
    """What a user asked for; each is a row in `ops` once it is done.

    `ROLLBACK_BEGIN` is one when it is begun: a rollback in place, whose changes are seen as they
    are made. For `FRESH` nobody asked: the daemon lets go of an upper that repeats layers.
    """

    UP = "up"
    DOWN = "down"
    CHECKPOINT = "checkpoint"
    ROLLBACK = "rollback"
    ROLLBACK_BEGIN = "rollback-begin"
    REBUILD = "rebuild"
    RELAY = "relay"
    FRESH = "fresh"


ON_ANOTHER_CHAIN = frozenset({Op.ROLLBACK, Op.REBUILD, Op.RELAY, Op.FRESH})
"""What puts a fresh upper on another chain, and may find that there was nothing to save."""


@dataclass(frozen=True, slots=True)
class Transition:
    """An environment's next state, whole: committing it needs nothing but this.

    `after` is the environment as it will be; `states` what becomes of layers; `checkpoint` the
    checkpoint that is born with it; `boot` the boot in which the layers were written that it seals.
    `discards_before` is set for a rollback in place that discards what is not sealed: when it
    began, in nanoseconds since the epoch. What is written later is not meant.
    """

    op: Op
    after: Environment
    states: dict[LayerId, LayerState] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    boot: str | None = None
    discards_before: int | None = None

    def is_in_place(self, env: Environment) -> bool:
        """Whether it rolls `env` back on the upper that it has, path by path."""
        return self.op is Op.ROLLBACK and self.after.upper == env.upper

    @property
    def sealed(self) -> list[LayerId]:
        """The layers that it seals."""
        return [layer for layer, state in self.states.items() if state is LayerState.SEALING]


def dump_chain(chain: Chain) -> str:
    """Return a chain as the JSON list that a column holds."""
    return json.dumps(chain)


def load_chain(text: str) -> Chain:
    """Undo `dump_chain`."""
    return tuple(LayerId(layer) for layer in json.loads(text))


def dump_transition(transition: Transition) -> str:
    """Return a transition as JSON; paths as os.fsdecode gives them."""
    return json.dumps(dataclasses.asdict(transition), default=os.fsdecode)


def load_transition(text: str) -> Transition:
    """Undo `dump_transition`."""
    raw = json.loads(text)
    return Transition(
        op=Op(raw["op"]),
        after=_environment(raw["after"]),
        states={LayerId(layer): LayerState(state) for layer, state in raw["states"].items()},
        checkpoint=_checkpoint(raw["checkpoint"]) if raw["checkpoint"] else None,
        boot=raw["boot"],
        discards_before=raw["discards_before"],
    )


def _environment(raw: dict[str, Any]) -> Environment:
    paths = {key: os.fsencode(raw[key]) for key in ("stack_path", "project", "mount")}
    chains = {key: tuple(raw[key]) for key in ("base", "lowers")}
    return Environment(**{**raw, **paths, **chains, "id": EnvId(raw["id"])})


def _checkpoint(raw: dict[str, Any]) -> Checkpoint:
    counted = Counts(**raw["changes"]) if raw["changes"] else None
    chain = tuple(raw["chain"])
    return Checkpoint(**{**raw, "chain": chain, "changes": counted, "id": CheckpointId(raw["id"])})
