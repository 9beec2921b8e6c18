"""Rows of the database as values of the model, and back: which columns stand in which order."""

from __future__ import annotations

from typing import Any

from envstack.model import (
    Checkpoint,
    CheckpointId,
    Counts,
    EnvId,
    Environment,
    Layer,
    LayerId,
    LayerKind,
    LayerState,
)
from envstack.store.records import dump_chain, load_chain

ENVIRONMENT = (
    "id, name, stack_path, project, mount, stack, base, upper, lowers, head, wanted, created_at"
)
LAYER = "id, kind, state, name, source, key"
CHECKPOINT = (
    "checkpoint.id, checkpoint.env, parent, message, tag, created_at, mode, chain,"
    " added, modified, deleted, coalesce(layer.state, 'sealed') = 'sealed', damage,"
    " NOT EXISTS (SELECT 1 FROM layer AS risky"
    " WHERE risky.boot IS NOT NULL AND instr(chain, risky.id))"
    " FROM checkpoint LEFT JOIN layer ON layer.id = json_extract(chain, '$[0]')"
)


def columns(env: Environment) -> tuple[Any, ...]:
    """Return what `ENVIRONMENT` names of an environment."""
    return (
        *(env.id, env.name, env.stack_path, env.project, env.mount, env.stack),
        *(dump_chain(env.base), env.upper, dump_chain(env.lowers), env.head),
        *(int(env.wanted), env.created_at),
    )


def environment(row: tuple[Any, ...]) -> Environment:
    """Return the environment of a row of `ENVIRONMENT`."""
    return Environment(
        id=EnvId(row[0]),
        name=row[1],
        stack_path=row[2],
        project=row[3],
        mount=row[4],
        stack=row[5],
        base=load_chain(row[6]),
        upper=LayerId(row[7]),
        lowers=load_chain(row[8]),
        head=row[9],
        wanted=bool(row[10]),
        created_at=row[11],
    )


def layer(row: tuple[Any, ...]) -> Layer:
    """Return the layer of a row of `LAYER`."""
    return Layer(
        id=LayerId(row[0]),
        kind=LayerKind(row[1]),
        state=LayerState(row[2]),
        name=row[3],
        source=row[4],
        key=row[5],
    )


def checkpoint(row: tuple[Any, ...]) -> Checkpoint:
    """Return the checkpoint of a row of `CHECKPOINT`."""
    counts = None if row[8] is None else Counts(row[8], row[9], row[10])
    return Checkpoint(
        id=CheckpointId(row[0]),
        env=EnvId(row[1]),
        parent=row[2],
        message=row[3],
        tag=row[4],
        created_at=row[5],
        mode=row[6],
        chain=load_chain(row[7]),
        changes=counts,
        sealed=bool(row[11]),
        durable=bool(row[13]) and row[12] is None,
        damage=row[12],
    )
