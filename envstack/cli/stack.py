"""`init` and `validate`: the stack file itself. No daemon is needed, unless one stands inside."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import Json, begin
from envstack.errors import EnvstackError, StateError

if TYPE_CHECKING:
    from envstack.stackfile import StackFile

_StackFile = Annotated[str | None, typer.Argument(metavar="STACKFILE", hidden=True)]


def init(ctx: typer.Context, json: Json = False) -> None:
    """Write a first envstack.yaml for this directory.

    \b
    Examples:
      envstack init
      envstack -C ~/src/web init
    """
    from envstack.stackfile.template import default_name, template

    out = begin(ctx, json)
    project = place.current_directory()
    path = os.path.join(project, os.fsencode(place.STACK_FILE))
    _create(path, template(default_name(project)))
    shown = os.fsdecode(path)
    out.show({"path": shown}, [f"wrote {text.name(shown)}", "next: envstack up"])


def _create(path: bytes, content: str) -> None:
    """Write a new file; raises StateError where there is one, EnvstackError where it cannot be."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise StateError(f"there is already {os.fsdecode(path)}", "envstack validate") from None
    except OSError as error:
        raise EnvstackError(f"{os.fsdecode(path)} cannot be written: {error.strerror}") from error


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
            checked = load(os.fsencode(row["stack"]), project)
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
