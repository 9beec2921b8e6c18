"""YAML text as a tree of nodes that know their positions, built within bounds.

Built from the parser's events, not from `yaml.load`: composing recurses in C and ends the process
on deep nesting, a merge key can multiply without end, and of two equal keys the last wins in
silence. What a node means to envstack is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import yaml

from envstack.stackfile.source import Fault, Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from envstack.errors import StackFileError
    from envstack.stackfile.source import Source

DEPTH_LIMIT = 64
_TOO_DEEP = f"nested more than {DEPTH_LIMIT} levels deep"
_LIBYAML_TOO_DEEP = "exceeded maximum nesting depth"
"""What the libyaml of PyYAML 6.0.4 says, at 1,000 levels: it reads ahead of what it hands out."""
NODE_LIMIT = 10_000
"""Nodes with aliases expanded; 500 layers, the most that overlayfs takes, are half of it."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML built without libyaml lacks the fast one."""

UNFIT = object()
"""The data of a scalar that no field takes: a float, a date, an integer that is not decimal."""

_TAG_DIRECTIVE = re.compile("(?:^|[\n\r\x85\u2028\u2029])%TAG")
_DECIMAL = re.compile("0|[1-9][0-9]{0,8}")
_TRUE = frozenset({"yes", "true", "on"})
_CORE = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value: its text, and what YAML takes it for (`str`, `int`, `bool`, `null`, ...)."""

    at: Position
    text: str
    type: str
    data: Any


@dataclass(frozen=True, slots=True)
class List:
    at: Position
    items: tuple[Node, ...]
    data: list[Any]


@dataclass(frozen=True, slots=True)
class Entry:
    key: Scalar
    value: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys are their text, whatever YAML takes that for: `on: x` has the key `on`."""

    at: Position
    entries: dict[str, Entry]
    data: dict[str, Any]


Node = Scalar | List | Mapping


def read(source: Source) -> tuple[Node, list[Fault]]:
    """Return the one document in `source`, and the faults that did not keep it from being read.

    Raises StackFileError for what did: text that is not YAML, no document or several, one of the
    bounds passed.
    """
    builder = _Builder(source)
    # libyaml compares each %TAG with all before it: a file full of them takes seconds.
    directive = _TAG_DIRECTIVE.search(source.text)
    if directive:
        at = source.position(directive.end() - len("%TAG"))
        raise builder.error(at, "tags are not taken, so `%TAG` has no use")
    loader = LOADER(source.text)
    try:
        while loader.check_event():
            builder.take(loader.get_event(), loader)
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, builder, source) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The last two: SafeLoader at an escape beyond Unicode, "\U00110000" and "\UFFFFFFFF".
        raise builder.error(Position(), f"this is not YAML: {error}") from None
    finally:
        loader.dispose()
    if builder.root is None:
        raise builder.error(Position(), "the file is empty")
    return builder.root, builder.faults


def find(root: Node, path: Sequence[str | int]) -> Node:
    """Return the node at `path`, or the last one on the way that is there."""
    node = root
    for step in path:
        match node:
            case Mapping(entries=entries) if step in entries:
                node = entries[str(step)].value
            case List(items=items) if isinstance(step, int) and step < len(items):
                node = items[step]
            case _:
                break
    return node


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet; `before` is the count of nodes at its start."""

    at: Position
    anchor: str | None
    before: int
    children: list[Node] = field(default_factory=list)


class _Builder:
    """Takes events; leaves a tree in `root`. The nodes of an alias are shared, and counted anew."""

    def __init__(self, source: Source) -> None:
        self.root: Node | None = None
        self.faults: list[Fault] = []
        self._source = source
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._count = 0

    def error(self, at: Position, message: str) -> StackFileError:
        return self._source.error([*self.faults, Fault(at, message)])

    def take(self, event: Any, loader: Any) -> None:
        at = _position(event.start_mark)
        match event:
            case yaml.DocumentStartEvent():
                if self.root is not None:
                    raise self.error(at, "a second document begins; a stack file is one document")
            case yaml.AliasEvent(anchor=str(anchor)):
                self._alias(anchor, at)
            case yaml.ScalarEvent():
                self._tag(event, at)
                node = self._scalar(event, at, loader)
                self._add(node, event.anchor, self._count)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._tag(event, at)
                if len(self._open) == DEPTH_LIMIT:
                    raise self.error(at, _TOO_DEEP)
                self._open.append(_Open(at, event.anchor, self._count))
            case yaml.SequenceEndEvent():
                done = self._open.pop()
                items = tuple(done.children)
                self._add(
                    List(done.at, items, [item.data for item in items]), done.anchor, done.before
                )
            case yaml.MappingEndEvent():
                done = self._open.pop()
                self._add(self._mapping(done), done.anchor, done.before)

    def _add(self, node: Node, anchor: str | None, before: int) -> None:
        self._grow(1, node.at)
        if anchor is not None:
            self._anchors[anchor] = (node, self._count - before)
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node

    def _alias(self, anchor: str, at: Position) -> None:
        if anchor not in self._anchors:
            raise self.error(at, f"`*{anchor}` names nothing that is complete above it")
        node, size = self._anchors[anchor]
        self._grow(size - 1, at)
        self._add(replace(node, at=at), None, self._count)

    def _grow(self, nodes: int, at: Position) -> None:
        self._count += nodes
        if self._count > NODE_LIMIT:
            raise self.error(at, f"more than {NODE_LIMIT:,} values, aliases expanded")

    def _tag(self, event: Any, at: Position) -> None:
        if event.tag is not None:
            tag = event.tag.replace(_CORE, "!!")
            self.faults.append(Fault(at, f"tags are not taken: leave out `{tag}`"))

    def _scalar(self, event: Any, at: Position, loader: Any) -> Scalar:
        text = event.value
        if "\0" in text or not _encodable(text):
            self.faults.append(Fault(at, "holds a character that no path or variable can hold"))
            text = ""
        plain = event.tag is None and event.implicit[0]
        tag = loader.resolve(yaml.ScalarNode, text, (True, False)) if plain else f"{_CORE}str"
        kind = tag.removeprefix(_CORE)
        return Scalar(at, text, kind, _data(kind, text))

    def _mapping(self, done: _Open) -> Mapping:
        entries: dict[str, Entry] = {}
        for key, value in zip(done.children[::2], done.children[1::2], strict=True):
            message = _key_fault(key, entries)
            if message:
                self.faults.append(Fault(key.at, message))
            elif isinstance(key, Scalar):
                entries[key.text] = Entry(key, value)
        data = {name: entry.value.data for name, entry in entries.items()}
        return Mapping(done.at, entries, data)


def _key_fault(key: Node, entries: dict[str, Entry]) -> str:
    if not isinstance(key, Scalar):
        return "a key must be text, not a list or a mapping"
    if key.type == "merge":
        return "merge keys (`<<`) are not taken: write the keys out"
    if key.text in entries:
        line = entries[key.text].key.at.line
        return f"`{key.text}` is here a second time; the first is in line {line}"
    return ""


def _data(kind: str, text: str) -> Any:
    match kind:
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() in _TRUE
        case "int" if _DECIMAL.fullmatch(text):
            return int(text)
        case _:
            return UNFIT


def _encodable(text: str) -> bool:
    """Return whether `text` is free of lone surrogates, which SafeLoader takes as escapes."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _syntax(error: yaml.MarkedYAMLError, builder: _Builder, source: Source) -> StackFileError:
    mark = error.problem_mark or error.context_mark
    if error.problem == _LIBYAML_TOO_DEEP:
        return builder.error(_position(mark), _TOO_DEEP)
    context = f" ({error.context})" if error.context else ""
    end = len(source.text.rstrip())
    if mark is None or mark.index >= end:
        message = f"this is not YAML: the file ends too early{context}"
        return builder.error(source.position(end), message)
    if source.text[mark.index] == "\t":
        return builder.error(_position(mark), "a tab stands where YAML takes spaces alone")
    return builder.error(_position(mark), f"this is not YAML: {error.problem}{context}")
