"""What the feed tells: one type an event, and the JSON object that each is on the wire.

Values alone: who is told what, and when, is for others. Every event has its place in the feed:
`cursor`, opaque, by which one goes on from there, and `seq`, which grows by one an event within an
environment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from envstack.rpc.messages import INVALID_REQUEST, ProtocolError
from envstack.rpc.shapes import change, told_bytes, told_change

if TYPE_CHECKING:
    from envstack.model import Change
    from envstack.rpc.messages import Json

    T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ready:
    """The first event: where the stream begins, in which environment.

    With `fresh` it does not go on from where was asked: what is known of the tree is to be thrown
    away and the merged tree listed anew. `head` is the checkpoint that the upper stands on.
    """

    cursor: str
    seq: int
    env: str
    mount: bytes
    head: str | None
    fresh: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of paths, each against what the merged tree held just before it."""

    cursor: str
    seq: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class CheckpointMade:
    cursor: str
    seq: int
    id: str
    message: str
    mode: str


@dataclass(frozen=True, slots=True)
class RollbackBegin:
    """What follows, until the end of it, is what a rollback does; `to` is an id or `base`."""

    cursor: str
    seq: int
    to: str


@dataclass(frozen=True, slots=True)
class RollbackEnd:
    cursor: str
    seq: int
    to: str


@dataclass(frozen=True, slots=True)
class MountChanged:
    """What became of the mount: `mounted`, `unmounted`, or `swapped` for another one."""

    cursor: str
    seq: int
    state: str


@dataclass(frozen=True, slots=True)
class Synced:
    """A barrier: what was changed before somebody asked for it stands before it."""

    cursor: str
    seq: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event that only a newer envstack knows; `event` is its name."""

    cursor: str
    seq: int
    event: str


Event = (
    Ready | Changes | CheckpointMade | RollbackBegin | RollbackEnd | MountChanged | Synced | Unknown
)


def to_json(event: Event) -> Json:
    """Return the feed object of `event`."""
    name, facts = _facts(event)
    return {"event": name, "cursor": event.cursor, "seq": event.seq, **facts}


def _facts(event: Event) -> tuple[str, Json]:
    """Return the name of an event, and what it says besides its place."""
    match event:
        case Ready(env=env, mount=mount, head=head, fresh=fresh):
            where = {"env": env, "mount": os.fsdecode(mount)}
            return "ready", {**where, "head": head, "fresh": fresh}
        case Changes(changes=changes):
            return "changes", {"changes": [change(row) for row in changes]}
        case CheckpointMade(id=made, message=message, mode=mode):
            return "checkpoint", {"id": made, "message": message, "mode": mode}
        case RollbackBegin(to=to):
            return "rollback-begin", {"to": to}
        case RollbackEnd(to=to):
            return "rollback-end", {"to": to}
        case MountChanged(state=state):
            return "mount", {"state": state}
        case Synced():
            return "sync", {}
        case Unknown(event=name):
            return name, {}


def from_json(shape: Json) -> Event:
    """Return the event of a feed object; raises ProtocolError where it is none.

    Keys that are not known are no fault, and an event that is not known is `Unknown`.
    """
    try:
        return _event(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(INVALID_REQUEST, "this is no event of the feed") from error


def _event(shape: Json) -> Event:
    place = (_of(str, shape, "cursor"), _of(int, shape, "seq"))
    match name := _of(str, shape, "event"):
        case "ready":
            head = None if shape["head"] is None else _of(str, shape, "head")
            mount = told_bytes(_of(str, shape, "mount"))
            return Ready(*place, _of(str, shape, "env"), mount, head, _of(bool, shape, "fresh"))
        case "changes":
            rows: list[Any] = _of(list, shape, "changes")
            return Changes(*place, tuple(map(told_change, rows)))
        case "checkpoint":
            message, mode = _of(str, shape, "message"), _of(str, shape, "mode")
            return CheckpointMade(*place, _of(str, shape, "id"), message, mode)
        case "rollback-begin":
            return RollbackBegin(*place, _of(str, shape, "to"))
        case "rollback-end":
            return RollbackEnd(*place, _of(str, shape, "to"))
        case "mount":
            return MountChanged(*place, _of(str, shape, "state"))
        case "sync":
            return Synced(*place)
    return Unknown(*place, name)


def _of(kind: type[T], shape: Json, key: str) -> T:
    value = shape[key]
    if not isinstance(value, kind):
        raise TypeError(key)
    return value
