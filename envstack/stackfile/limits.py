"""`config.yaml`: the limits that a user may set for all environments; without it none are set.

feed:
  journal_mib: 64
archive:
  max_mib: 65536
  max_members: 1000000
  max_ratio: 1000
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envstack.errors import NotFound
from envstack.stackfile import tree
from envstack.stackfile.reader import read_bytes
from envstack.stackfile.source import Fault, decode
from envstack.stackfile.tree import Mapping, Scalar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.stackfile.tree import Node

_MIB = 1 << 20

_KEYS = {
    "feed": {"journal_mib": ("a number of MiB", 1 << 20)},
    "archive": {
        "max_mib": ("a number of MiB", 1 << 24),
        "max_members": ("a number", 100_000_000),
        "max_ratio": ("a number", 1_000_000),
    },
}
"""Of each section the keys, and what their values are and how large at the most."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What one archive or image layer may hold, or expand to: bytes, holes included, and entries.

    `ratio` is how many times its compressed size it may expand to. containerd, BuildKit and umoci
    have no such limits; a layer of a large image has some hundred thousand entries.
    """

    bytes: int = 65_536 * _MIB
    members: int = 1_000_000
    ratio: int = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """`journal`: bytes of events that the feed of one environment keeps."""

    journal: int = 64 * _MIB
    archive: ArchiveLimits = field(default_factory=ArchiveLimits)


def load(path: bytes) -> Limits:
    """Return the limits in the file at `path`.

    Raises StackFileError with every fault found, UsageError where it is no regular file,
    EnvstackError where it cannot be read.
    """
    try:
        text = read_bytes(path, path)
    except NotFound:
        return Limits()
    source = decode(text, path)
    root, faults = tree.read(source)
    faults += _faults(root)
    if faults:
        raise source.error(faults)
    usual = Limits()
    return Limits(
        journal=_number(root, "feed", "journal_mib", usual.journal // _MIB) * _MIB,
        archive=ArchiveLimits(
            bytes=_number(root, "archive", "max_mib", usual.archive.bytes // _MIB) * _MIB,
            members=_number(root, "archive", "max_members", usual.archive.members),
            ratio=_number(root, "archive", "max_ratio", usual.archive.ratio),
        ),
    )


def _number(root: Node, section: str, key: str, usual: int) -> int:
    """Return a number of a file without faults, `usual` where it does not say one."""
    found = tree.find(root, (section, key))
    return int(found.data) if isinstance(found, Scalar) else usual


def _faults(root: Node) -> Iterator[Fault]:
    """Yield what is wrong with the shape of the file."""
    for section, value in _entries(root, "the configuration", tuple(_KEYS)):
        if isinstance(section, Fault):
            yield section
            continue
        known = _KEYS[section]
        for key, number in _entries(value, f"`{section}`", tuple(known)):
            if isinstance(key, Fault):
                yield key
                continue
            what, most = known[key]
            if not _is_number(number, most):
                yield Fault(number.at, f"`{key}` must be {what}, from 1 to {most}")


def _entries(node: Node, what: str, known: tuple[str, ...]) -> Iterator[tuple[str | Fault, Node]]:
    """Yield the known keys of a mapping with their values, and a fault for all else."""
    if not isinstance(node, Mapping):
        yield Fault(node.at, f"{what} must be a mapping"), node
        return
    for name, entry in node.entries.items():
        if name in known:
            yield name, entry.value
        else:
            listed = ", ".join(f"`{key}`" for key in known)
            yield Fault(entry.key.at, f"unknown key `{name}`; known here: {listed}"), entry.value


def _is_number(node: Node, most: int) -> bool:
    if not isinstance(node, Scalar) or isinstance(node.data, bool):
        return False
    return isinstance(node.data, int) and 1 <= node.data <= most
