"""Values of the model as the JSON objects of the contract; the only place that names their keys.

A path becomes text here: what is not UTF-8 is shown as U+FFFD, and the exact bytes stand beside it
as `path_b64`.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envstack.errors import EnvstackError
    from envstack.model import (
        Brought,
        Change,
        Checkpoint,
        CheckpointId,
        Counts,
        Drift,
        Entrance,
        Holder,
        Relaid,
        RolledBack,
        Sealed,
        Status,
        Terms,
        Trusted,
    )

Json = dict[str, Any]


def path_text(path: bytes) -> str:
    """Return `path` as text that any consumer can read."""
    return path.decode("utf-8", "replace")


def _path(path: bytes) -> Json:
    try:
        return {"path": path.decode("utf-8")}
    except UnicodeDecodeError:
        exact = base64.b64encode(path).decode("ascii")
        return {"path": path_text(path), "path_b64": exact}


def path_bytes(row: Json) -> bytes:
    """Return the exact path of a row."""
    exact = row.get("path_b64")
    return base64.b64decode(exact) if exact else told_bytes(row["path"])


def told_bytes(path: str) -> bytes:
    """Return the bytes of a path that the daemon told as text, in whatever locale both are."""
    return path.encode("utf-8", "surrogateescape")


def counts(value: Counts | None) -> Json | None:
    """Return `{added, modified, deleted}`, or None while nobody has counted."""
    if value is None:
        return None
    return {"added": value.added, "modified": value.modified, "deleted": value.deleted}


def change(value: Change) -> Json:
    """Return one row of `diff`."""
    row = _path(value.path)
    row["change"], row["kind"] = str(value.change), str(value.kind)
    return row


def told_change(row: Json) -> Change:
    """Return the change that a row tells of; raises KeyError, TypeError, ValueError if it is none.

    The bytes of the path are exact.
    """
    # Late: who only shows what the daemon said needs no model.
    from envstack.model import Change, ChangeType, FileKind

    change, kind = row["change"], row["kind"]
    return Change(path_bytes(row), ChangeType(change), FileKind(kind))


def checkpoint(value: Checkpoint) -> Json:
    """Return a checkpoint as `checkpoint`, `log` and `status.head` show it."""
    return {
        "id": value.id,
        "parent": value.parent,
        "message": value.message,
        "tag": value.tag,
        "created_at": value.created_at,
        "mode": value.mode,
        "changes": counts(value.changes),
        "durable": value.durable,
        "damaged": value.damage is not None,
    }


def log(rows: Iterable[Checkpoint], head: CheckpointId | None) -> list[Json]:
    """Return the rows of `log`, in the order given, the head marked."""
    return [{**checkpoint(row), "head": row.id == head, "sealed": row.sealed} for row in rows]


def holder(value: Holder) -> Json:
    """Return one row of `holders`."""
    return {
        "pid": value.pid,
        "command": value.command,
        "user": value.user,
        "holds": [{"what": str(hold.what), **_path(hold.path)} for hold in value.holds],
    }


def status(value: Status) -> Json:
    """Return an environment as `up`, `status`, `down` and `ls` show it."""
    env = value.env
    return {
        "id": env.id,
        "name": env.name,
        "project": os.fsdecode(env.project),
        "stack": os.fsdecode(env.stack_path),
        "mount": os.fsdecode(env.mount),
        "state": str(value.state),
        "reason": value.reason,
        "hint": value.hint,
        "backend": "overlayfs",
        "head": checkpoint(value.head) if value.head else None,
        "layers": [
            {"name": layer.name, "id": layer.id, "kind": str(layer.kind)} for layer in value.layers
        ],
        "upper": env.upper,
        "dirty": value.dirty,
        "cursor": value.cursor,
        "holders": [holder(row) for row in value.holders],
        "left_below": [holder(row) for row in value.left_below],
        "drift": drift(value.drift),
    }


def entrance(value: Entrance) -> Json:
    """Return the answer to `env.enter`."""
    env = value.env
    return {
        "name": env.name,
        "stack": os.fsdecode(env.stack_path),
        "mount": os.fsdecode(env.mount),
        "root": value.is_root,
        "env": value.variables,
        "group": None if value.group is None else os.fsdecode(value.group),
    }


def drift(rows: Iterable[Drift] | None) -> list[Json] | None:
    """Return the layers that changed below the mount, or None where nobody has looked."""
    if rows is None:
        return None
    return [
        {
            "layer": row.layer,
            "name": row.name,
            "reason": str(row.reason),
            "paths": [_path(path) for path in row.paths],
            "entries_before": row.entries_before,
            "entries_now": row.entries_now,
        }
        for row in rows
    ]


def relaid(value: Relaid) -> Json:
    """Return how `up --relay` did it."""
    return {
        "mode": "swap" if value.is_exchanged else "refresh",
        "stranded": [holder(row) for row in value.stranded],
    }


def brought(value: Brought, state: Status) -> Json:
    """Return the answer to `up`: `status`, and what became of the layers."""
    layers = {"outdated": list(value.outdated), "saved": value.saved, "left": value.left}
    return {**status(state), **layers}


def terms(value: Terms) -> Json:
    """Return what a stack file would run and fetch: the answer to `trust`, and part of an error."""
    commands = [{"layer": layer, "run": command} for layer, command in value.commands]
    return {
        "stack": os.fsdecode(value.stack_path),
        "digest": value.digest,
        "commands": commands,
        "env": value.env,
        "addresses": [{"layer": layer, "address": address} for layer, address in value.addresses],
    }


def trusted(value: Trusted) -> Json:
    """Return one row of `trust --list`."""
    return {"stack": os.fsdecode(value.stack_path), "digest": value.digest, "at": value.at}


def sealed(value: Sealed) -> Json:
    """Return the answer to `checkpoint`."""
    return {
        **checkpoint(value.checkpoint),
        "duration_ms": value.duration_ms,
        "reason": value.reason,
        "unstable": [path_text(path) for path in value.unstable],
        "stranded": [holder(row) for row in value.stranded],
    }


def rolled_back(value: RolledBack) -> Json:
    """Return the answer to `rollback`; `paths` is there for a dry run alone."""
    shape: Json = {
        "to": value.to,
        "saved": value.saved,
        "saved_meanwhile": value.saved_meanwhile,
        "mode": value.mode,
        "reason": value.reason,
        "changes": counts(value.changes),
        "duration_ms": value.duration_ms,
        "orphaned": [holder(row) for row in value.orphaned],
        "late": [_path(path) for path in value.late],
        "stranded": [holder(row) for row in value.stranded],
    }
    if value.paths is not None:
        shape["paths"] = [change(row) for row in value.paths]
    return shape


def error(value: EnvstackError) -> Json:
    """Return `{kind, message, hint}` and what the error adds, as `--json` prints it."""
    shape: Json = {"kind": value.kind, "message": value.message, "hint": value.hint}
    shape.update(value.details())
    asked = getattr(value, "terms", None)
    if asked is not None:
        shape.update(terms(asked))
    holders = getattr(value, "holders", ())
    if holders:
        shape["holders"] = [holder(row) for row in holders]
    return shape
