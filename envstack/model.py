"""The words of envstack as values: ids, layers, checkpoints, changes, holders.

Everything here is immutable and knows neither disk, kernel nor wire. Paths are `bytes`, because a
Linux file name is: text is made of them at the edges alone (`rpc.shapes`).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

EnvId = NewType("EnvId", str)
LayerId = NewType("LayerId", str)
CheckpointId = NewType("CheckpointId", str)

BASE = "base"
"""The revision that names the stack alone, before any checkpoint."""


def new_id() -> str:
    """Return 16 random hexadecimal digits, the form of every id."""
    return secrets.token_hex(8)


class ChangeType(StrEnum):
    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


class FileKind(StrEnum):
    FILE = "file"
    DIR = "dir"
    SYMLINK = "symlink"
    OTHER = "other"


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """One path that differs between two trees; `path` is relative to the mount, `b"."` its root."""

    path: bytes
    change: ChangeType
    kind: FileKind


@dataclass(frozen=True, slots=True)
class Counts:
    """How many paths were added, modified and deleted."""

    added: int = 0
    modified: int = 0
    deleted: int = 0


class LayerKind(StrEnum):
    """What made a layer. `DIR` is a user's directory by reference: its tree is not in the store."""

    DIR = "dir"
    COPY = "copy"
    ARCHIVE = "archive"
    RUN = "run"
    UPPER = "upper"


class LayerState(StrEnum):
    """Where a layer is in its life.

    `BUILDING` -> `SEALED` for what a stack entry makes, `SPARE` -> `UPPER` -> `SEALING` -> `SEALED`
    for an upper. `SPARE`: empty, made ahead of the rotation that takes it. `SEALING`: nobody
    reaches it by a path, the superblock lock is outstanding. `UNSEALED`: the daemon was killed
    before that lock, and the superblock is out of reach. `DISCARDED`: may be deleted.
    """

    BUILDING = "building"
    SPARE = "spare"
    UPPER = "upper"
    SEALING = "sealing"
    SEALED = "sealed"
    UNSEALED = "unsealed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer; `source` is the user's directory where `kind` is `DIR` or `COPY`.

    Of an `ARCHIVE` it is where that came from, a path or an address.
    `key` says what a layer of a stack file was made from: one of the same key need not be built.
    """

    id: LayerId
    kind: LayerKind
    state: LayerState
    name: str | None = None
    source: bytes | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a tree holds: its entries, the root aside, and the bytes of its regular files."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class AtRisk:
    """A sealed layer that a power cut may harm.

    `boot` is the id of the boot in which it was sealed, or found whole; `extent` is None until it
    was measured.
    """

    layer: LayerId
    boot: str
    extent: Extent | None


Chain = tuple[LayerId, ...]
"""The layers under an upper, topmost first, as the kernel takes them."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a directory by reference looked like at `taken_ns`, in nanoseconds since the epoch.

    `digest` is empty, and so like no other, where it changed before it could be taken. `root` tells
    the directory itself from another one in its place.
    """

    digest: str
    entries: int
    root: str
    taken_ns: int


class DriftReason(StrEnum):
    """What became of a layer below the mount: its content, its directory, or all of it."""

    CHANGED = "changed"
    REPLACED = "replaced"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Drift:
    """One layer that is not what was mounted; `paths` are a few that changed, relative to it."""

    layer: LayerId
    name: str
    reason: DriftReason
    paths: tuple[bytes, ...]
    entries_before: int
    entries_now: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A named point of history. `created_at` is RFC 3339 in UTC; `changes` is None until counted.

    `sealed` tells whether its topmost layer is out of everybody's reach by now, `durable` whether
    all of its layers would outlive a power cut, `damage` what a power cut or the disk did to them.
    """

    id: CheckpointId
    env: EnvId
    parent: CheckpointId | None
    message: str
    tag: str | None
    created_at: str
    mode: str
    chain: Chain
    changes: Counts | None
    sealed: bool = False
    durable: bool = False
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class Environment:
    """What the store knows of one stack of one project.

    `stack_path` is the canonical path of the stack file, `project` its directory. `base` is the
    chain of the stack alone; `upper` stands on `lowers`, which need not be the chain of `head`
    once live checkpoints exist. `wanted` is whether the environment is to be mounted.
    """

    id: EnvId
    name: str
    stack_path: bytes
    project: bytes
    mount: bytes
    stack: str
    base: Chain
    upper: LayerId
    lowers: Chain
    head: CheckpointId | None
    wanted: bool
    created_at: str

    @property
    def over_project(self) -> bool:
        """Whether it is mounted over the project itself, which is hidden below the mount then."""
        return self.mount == self.project


class EnvState(StrEnum):
    UP = "up"
    DOWN = "down"
    DEGRADED = "degraded"


class HoldKind(StrEnum):
    """In what way the merged tree is held. The second group would be harmed, not just stranded.

    `OVERLAY`: another overlay has it as a layer. `UNKNOWN`: the kernel counts a user whom nothing
    names; if that one writes, the lock of the mount says so.
    """

    CWD = "cwd"
    ROOT = "root"
    PROGRAM = "program"
    FILE = "file"
    MAPPING = "mapping"
    INOTIFY = "inotify"
    LOCK = "lock"
    SOCKET = "socket"
    OVERLAY = "overlay"
    UNKNOWN = "unknown"

    WRITING = "writing"
    MAPPING_WRITABLE = "mapping-writable"
    BIND = "bind"
    COPY = "copy"
    MOUNT_INSIDE = "mount-inside"
    LOOP = "loop"


STRANDABLE = frozenset(
    {
        HoldKind.CWD,
        HoldKind.ROOT,
        HoldKind.PROGRAM,
        HoldKind.FILE,
        HoldKind.MAPPING,
        HoldKind.INOTIFY,
        HoldKind.LOCK,
        HoldKind.SOCKET,
        HoldKind.OVERLAY,
        HoldKind.UNKNOWN,
    }
)
"""Holds that `--force` may leave behind in the old tree; the others refuse it."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One thing held; `path` is as the holder sees it."""

    what: HoldKind
    path: bytes


@dataclass(frozen=True, slots=True)
class Holder:
    """Who is inside a merged tree.

    `pid` is None where no process can be named; `command` is "mount" or a loop device then, or
    "unknown".
    """

    pid: int | None
    command: str
    user: str
    holds: tuple[Hold, ...]

    @property
    def strandable(self) -> bool:
        """Whether `--force` may leave this holder behind."""
        return all(hold.what in STRANDABLE for hold in self.holds)


@dataclass(frozen=True, slots=True)
class StackLayer:
    """A layer as `status` lists it, under the name that the stack file gives it."""

    name: str
    id: LayerId
    kind: LayerKind


@dataclass(frozen=True, slots=True)
class Status:
    """An environment as `up`, `status` and `ls` show it. `reason` says why it is degraded.

    Unless `dirty`, all changes are sealed; to know whether there are any then takes a diff.
    `left_below` are those who stand in the project below a mount over it: `up` alone looks for
    them. `drift` are the layers that are known to have changed below the mount; None: never looked.
    `hint` says what to do about the reason. `cursor` is the end of its feed, None before it begins.
    """

    env: Environment
    state: EnvState
    layers: tuple[StackLayer, ...]
    head: Checkpoint | None
    dirty: bool
    holders: tuple[Holder, ...] = ()
    reason: str | None = None
    left_below: tuple[Holder, ...] = ()
    drift: tuple[Drift, ...] | None = None
    hint: str = ""
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Brought:
    """The answer to `up`.

    `outdated` are the layers that are made from something else than what is there now. Where a
    fresh upper was put on new layers, `left` was the head before, and `saved` is the checkpoint
    that keeps what was not sealed.
    """

    env: Environment
    outdated: tuple[str, ...] = ()
    saved: CheckpointId | None = None
    left: CheckpointId | None = None


@dataclass(frozen=True, slots=True)
class Entrance:
    """What a command is given that is to run in the merged tree of `env`.

    `variables` go over the user's own. Where `is_root`, the tree is its root directory. `group` is
    a file to which it writes "0" first: then what it starts can be frozen together.
    """

    env: Environment
    variables: dict[str, str]
    is_root: bool
    group: bytes | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a stack file would run: the layers' names with their commands, and with which `env`.

    `addresses` are what it would fetch, likewise with the layers' names. `digest` stands for all of
    it: whoever says yes to that has seen this.
    """

    stack_path: bytes
    commands: tuple[tuple[str, str], ...]
    env: dict[str, str]
    digest: str
    addresses: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Trusted:
    """One yes: the stack file at `stack_path` may run what `digest` stands for, since `at`."""

    stack_path: bytes
    digest: str
    at: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """The answer to `checkpoint`: `stranded` are the holders that `--force` left behind.

    `reason` says why it was made in its mode, a clause for people; `unstable` are the paths that
    changed while they were copied.
    """

    checkpoint: Checkpoint
    duration_ms: float
    stranded: tuple[Holder, ...] = field(default=())
    reason: str = ""
    unstable: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Relaid:
    """The answer to `up --relay`: was the mount exchanged, and under what were changes sealed."""

    is_exchanged: bool
    saved: CheckpointId | None = None
    stranded: tuple[Holder, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The answer to `rollback`: `to` is a checkpoint id or `base`; a dry run alone has `paths`.

    `reason` says why it was done in its mode, a clause for people. The rest is of a rollback in
    place: `orphaned` are those who have files open for writing, or mapped so, that the tree does
    not show any more; `saved_meanwhile` keeps what was written while it went on; `late` are the
    paths that somebody changed all the time, and that are left as they are.
    """

    to: str
    saved: CheckpointId | None
    mode: str
    changes: Counts | None
    duration_ms: float = 0.0
    paths: tuple[Change, ...] | None = None
    stranded: tuple[Holder, ...] = field(default=())
    reason: str = ""
    orphaned: tuple[Holder, ...] = ()
    saved_meanwhile: CheckpointId | None = None
    late: tuple[bytes, ...] = ()
