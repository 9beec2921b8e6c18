"""`init`, `validate` and `schema`: the stack file itself.

No daemon is needed, unless one stands inside a merged tree.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import Json, begin
from envstack.errors import EnvstackError, StateError
from envstack.rpc.shapes import told_bytes

if TYPE_CHECKING:
    from envstack.stackfile import StackFile

_StackFile = Annotated[str | None, typer.Argument(metavar="STACKFILE", hidden=True)]


def init(ctx: typer.Context, json: Json = False) -> None:
    """Write a first envstack.yaml for this directory.

    Beside it goes .envstack.schema.json, by which editors with YAML support complete keys, explain
    them and mark faults. Both belong into version control.

    \b
    Examples:
      envstack init
      envstack -C ~/src/web init
    """
    from envstack.stackfile.template import SCHEMA_FILE, default_name, template

    out = begin(ctx, json)
    project = place.current_directory()
    path = os.path.join(project, os.fsencode(place.STACK_FILE))
    schema_path = os.path.join(project, os.fsencode(SCHEMA_FILE))
    # The schema first: killed in between, the next try has nothing in its way.
    if not os.path.lexists(path):
        _create(schema_path, "".join(f"{line}\n" for line in _schema_lines()))
    if not _create(path, template(default_name(project))):
        raise StateError(f"there is already {os.fsdecode(path)}", "envstack validate")
    shown, beside = os.fsdecode(path), os.fsdecode(schema_path)
    wrote = f"wrote {text.name(shown)}, and {SCHEMA_FILE} for editors"
    out.show({"path": shown, "schema": beside}, [wrote, _next_step(place.is_in_merged_tree())])


def _next_step(is_in_merged_tree: bool) -> str:
    if is_in_merged_tree:
        return "in here envstack up means the environment around it, not this stack file"
    return "next: envstack up"


def _create(path: bytes, content: str) -> bool:
    """Write a new file, whole or not at all; return False where there is one.

    Raises EnvstackError where it cannot be written.
    """
    try:
        with open(path, "x", encoding="utf-8") as file:
            try:
                file.write(content)
                file.flush()
            except OSError:
                os.unlink(path)
                raise
    except FileExistsError:
        return False
    except OSError as error:
        raise EnvstackError(f"{os.fsdecode(path)} cannot be written: {error.strerror}") from error
    return True


def schema(ctx: typer.Context, json: Json = False) -> None:
    """Print the JSON Schema of stack files, for editors.

    \b
    Examples:
      envstack schema > .envstack.schema.json   # as init wrote it, for this version
    """
    from envstack.stackfile.jsonschema import json_schema

    begin(ctx, json).show(json_schema(), _schema_lines())


def _schema_lines() -> list[str]:
    import json

    from envstack.stackfile.jsonschema import json_schema

    return json.dumps(json_schema(), indent=2).splitlines()


def validate(ctx: typer.Context, stackfile: _StackFile = None, json: Json = False) -> None:
    """Check a stack file, and say where it is wrong.

    All faults at once, each with line and column. Without STACKFILE it takes the nearest
    envstack.yaml upwards.

    \b
    Examples:
      envstack validate
      envstack validate stacks/hello/envstack.yaml
    """
    from envstack.stackfile.reader import load

    out = begin(ctx, json)
    target = place.here() if stackfile is None else place.named(stackfile)
    if "stack" in target:
        checked = load(os.fsencode(target["stack"]))
    else:
        with calls.running() as client:
            row = calls.call(out, client, "env.status", **target)
        with place.below(row) as project:
            checked = load(told_bytes(row["stack"]), project)
    names = ", ".join(text.escaped(layer.name) for layer in checked.layers)
    summary = f"{text.number_of(len(checked.layers), 'layer')}: {names}"
    out.show(
        _shape(checked), [f"{out.paint('green', 'ok')}  {text.escaped(checked.name)}, {summary}"]
    )


def _shape(stack: StackFile) -> dict[str, Any]:
    return {
        "path": os.fsdecode(stack.path),
        "name": stack.name,
        "mount": os.fsdecode(stack.mount),
        "layers": [{"name": entry.name, **entry.facts()} for entry in stack.layers],
    }
