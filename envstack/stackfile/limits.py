"""`config.yaml`: the limits that a user may set for all environments; without it none are set.

feed:
  journal_mib: 64
"""

from __future__ import annotations

from dataclasses import dataclass
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
_MOST_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """`journal`: bytes of events that the feed of one environment keeps."""

    journal: int = 64 * _MIB


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
    size = tree.find(root, ("feed", "journal_mib"))
    return Limits(journal=size.data * _MIB) if isinstance(size, Scalar) else Limits()


def _faults(root: Node) -> Iterator[Fault]:
    """Yield what is wrong with the shape of the file."""
    for key, value in _entries(root, "the configuration", ("feed",)):
        if isinstance(key, Fault):
            yield key
            continue
        for inner, number in _entries(value, f"`{key}`", ("journal_mib",)):
            if isinstance(inner, Fault):
                yield inner
            elif not _is_number(number):
                yield Fault(number.at, f"`{inner}` must be a number of MiB, from 1 to {_MOST_MIB}")


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


def _is_number(node: Node) -> bool:
    if not isinstance(node, Scalar) or isinstance(node.data, bool):
        return False
    return isinstance(node.data, int) and 1 <= node.data <= _MOST_MIB
