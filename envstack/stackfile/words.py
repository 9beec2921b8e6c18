"""What pydantic finds wrong with a stack file, in plain words and with positions.

Owns the phrasing of every fault of shape: wrong type, unknown, missing, reserved.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING

from envstack.stackfile.schema import KINDS, LAYER_MODELS, NOT_YET, RESERVED, VERSION, Stack, Watch
from envstack.stackfile.source import Fault
from envstack.stackfile.tree import List, Mapping, Node, Scalar, find

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import BaseModel, ValidationError

    from envstack.stackfile.source import Position

Path = tuple[str | int, ...]

_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}
_SAID = {
    "string_too_long": "is longer than a path can be, 4,095 characters",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "int_type": "must be a whole number from 0 to 255",
    "less_than_equal": "must be a whole number from 0 to 255",
    "string_pattern_mismatch": "must be 64 hexadecimal digits, 0 to 9 and a to f",
}
_READ_AS = {
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "timestamp": "a date",
}


def explain(error: ValidationError, root: Node) -> Iterator[Fault]:
    """Yield the faults in `error`, which pydantic found in the data of `root`."""
    for detail in error.errors(include_url=False, include_input=False):
        path, kind = detail["loc"], _layer_kind(detail["loc"])
        if kind:
            path = path[:2] + path[3:]
        match detail["type"]:
            case "missing":
                yield Fault(find(root, path).at, _missing(path, kind))
            case "extra_forbidden":
                key = str(path[-1])
                yield Fault(_key_position(root, path), _unknown(key, path[:-1], kind))
            case _ if path[-1:] == ("[key]",) and len(path) == 3:
                yield Fault(
                    _key_position(root, path[:-1]),
                    "the name of a variable must not be empty and not contain `=`",
                )
            case "literal_error":
                node = find(root, path)
                yield Fault(node.at, _version(node))
            case code:
                node = find(root, path)
                yield Fault(node.at, f"{_subject(path)} {_wrong(code, detail['msg'], node)}")


def _layer_kind(loc: Path) -> str:
    """Return the kind that pydantic judged a layer as, which it puts into the path of a fault."""
    return str(loc[2]) if loc[:1] == ("layers",) and len(loc) > 2 else ""


def _key_position(root: Node, path: Sequence[str | int]) -> Position:
    parent = find(root, path[:-1])
    if isinstance(parent, Mapping) and str(path[-1]) in parent.entries:
        return parent.entries[str(path[-1])].key.at
    return parent.at


def _missing(path: Path, kind: str) -> str:
    key = path[-1]
    if kind and key in KINDS:
        usable = [kind for kind in KINDS if kind not in NOT_YET]
        return f"a layer needs {_listed(usable[:-1])} or `{usable[-1]}`"
    if key == "version":
        return f"`version: {VERSION}` is missing"
    return f"a {'layer' if kind else 'stack file'} needs `{key}`"


def _unknown(key: str, parent: Path, kind: str) -> str:
    if key in RESERVED:
        return f"`{key}` is reserved: not yet in this version"
    if kind and key in KINDS:
        return f"a layer is one thing: `{kind}` or `{key}`"
    known = _known(parent, kind)
    if kind and any(key in _fields(model) for model in LAYER_MODELS.values()):
        return f"`{key}` does not go with `{kind}`"
    near = difflib.get_close_matches(key, [*known, *(KINDS if kind else ())], n=1)
    if near:
        return f"unknown key `{key}`: did you mean `{near[0]}`?"
    return f"unknown key `{key}`; known here: {_listed(known)}"


def _known(parent: Path, kind: str) -> list[str]:
    if kind:
        return _fields(LAYER_MODELS[kind])
    return _fields(Watch if parent else Stack)


def _fields(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _version(node: Node) -> str:
    if isinstance(node.data, int) and not isinstance(node.data, bool) and node.data > VERSION:
        return f"version {node.data} is newer than this envstack, which reads version {VERSION}"
    return f"`version` must be the number {VERSION}"


def _subject(path: Path) -> str:
    match path:
        case ():
            return "a stack file"
        case ("layers", int()):
            return "a layer"
        case (*_, str(key), int()):
            return f"an item of `{key}`"
        case _:
            return f"`{path[-1]}`"


def _wrong(code: str, said: str, node: Node) -> str:
    if code not in _EXPECTED:
        return _SAID.get(code, said)
    if code == "string_type" and isinstance(node, Scalar) and node.type in _READ_AS:
        quoted = json.dumps(node.text, ensure_ascii=False)
        return f"must be text, and YAML reads this as {_READ_AS[node.type]}: quote it, {quoted}"
    return f"must be {_EXPECTED[code]}, not {_actual(node)}"


def _actual(node: Node) -> str:
    match node:
        case Mapping():
            return "a mapping"
        case List():
            return "a list"
        case Scalar(type="null"):
            return "left without a value"
        case Scalar(type="str"):
            return "text"
        case Scalar(type=kind):
            return _READ_AS.get(kind, "this")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
