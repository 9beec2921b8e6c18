"""The JSON Schema of stack files, for editors: made from the models that judge stack files.

Draft 7, which every editor's YAML support reads. What no schema can say, such as that a directory
must be there, only `validate` knows.
"""

from __future__ import annotations

from typing import Any

from envstack.stackfile.schema import KINDS, LAYER_MODELS, NOT_YET, Stack

Json = dict[str, Any]

_DRAFT = "http://json-schema.org/draft-07/schema#"


def json_schema() -> Json:
    """Return the schema; kinds of layers that nothing builds yet are not in it."""
    schema = Stack.model_json_schema()
    models: dict[str, Json] = schema.pop("$defs")
    kinds = {kind: models[LAYER_MODELS[kind].__name__] for kind in KINDS if kind not in NOT_YET}
    properties = schema["properties"]
    properties["layers"]["items"] = _layer(kinds)
    properties["env"]["additionalProperties"] = False
    # In place of a reference: draft 7 overlooks what stands beside one, the description here.
    properties["watch"] = {**models["Watch"], "description": properties["watch"]["description"]}
    return {"$schema": _DRAFT, **_plain({**schema, "definitions": kinds})}


def _layer(kinds: dict[str, Json]) -> Json:
    """Return the schema of a layer, judged as `schema` does: by the first kind that it tells.

    With `oneOf`, editors would guess which kind is meant, and blame the wrong lines.
    """
    judged = _of_kind("dir")
    for kind in reversed(kinds):
        judged = {"if": {"required": [kind]}, "then": _of_kind(kind), "else": judged}
    # Named here as well, so that they are offered before it is clear which kind it is.
    named = {
        kind: {"description": model["properties"][kind]["description"]}
        for kind, model in kinds.items()
    }
    return {"type": "object", "properties": named, **judged}


def _of_kind(kind: str) -> Json:
    return {"$ref": f"#/definitions/{kind}"}


def _plain(schema: Any) -> Any:
    """Leave out titles, which say what the keys say, and defaults that stand for nothing given."""
    match schema:
        case dict():
            return {
                key: _plain(value)
                for key, value in schema.items()
                if not (key == "title" and isinstance(value, str))
                and not (key == "default" and value in ("", [], {}, None))
            }
        case list():
            return [_plain(value) for value in schema]
    return schema
