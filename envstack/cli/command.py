"""What every command has in common: how its arguments are taken, `--json`, Ctrl-C."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from envstack.cli.output import Output
from envstack.errors import Cancelled, UsageError

Context = typer.Context
"""What typer hands to a command, for modules that need nothing else of it."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


REBUILD = "--rebuild"
"""An option of `up` whose value may be missing, which then is the empty text: every layer."""


class Command(TyperCommand):
    """A command that Ctrl-C ends with exit code 130, and that starts quickly."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_value(args, REBUILD))

    def get_params(self, ctx: Any) -> list[Any]:
        return _taken_as_given(super().get_params(ctx))

    def get_help_option(self, ctx: Any) -> Any:
        return _shown_by_output(super().get_help_option(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Cancelled("interrupted") from None


class Group(TyperGroup):
    """A group of commands that starts quickly."""

    def get_help_option(self, ctx: Any) -> Any:
        return _shown_by_output(super().get_help_option(ctx))

    def get_params(self, ctx: Any) -> list[Any]:
        return _taken_as_given(super().get_params(ctx))


def _shown_by_output(option: Any) -> Any:
    """Let the help go where results go: typer fails where that cannot be written, or encoded."""
    option.callback = _show_help
    return option


def _show_help(ctx: Any, _param: Any, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.obj.show_help(ctx.get_help())
        ctx.exit()


def _with_value(args: list[str], option: str) -> list[str]:
    """Give an option whose value is missing the empty one."""
    if option not in args:
        return args
    at = args.index(option) + 1
    is_last = at == len(args) or args[at].startswith("-")
    return [*args[:at], "", *args[at:]] if is_last else args


def _taken_as_given(params: list[Any]) -> list[Any]:
    """Leave out typer's check that a text is a text, a flag a flag, and a list one of texts.

    It is made by pydantic, whose import takes as long as all else that a quick command does.
    """
    for param in params:
        kind = getattr(param, "type_descriptor", None)
        if kind is not None and kind.annotation in (str, bool, list[str]) and not param.required:
            param.process_value = partial(_as_given, param)
    return params


def _as_given(param: Any, ctx: Any, value: Any) -> Any:
    return value if param.callback is None else param.callback(ctx, param, value)


def begin(ctx: typer.Context, as_json: bool) -> Output:
    """Return where this command's results go; `--json` may have stood before the command too."""
    out = ctx.obj
    assert isinstance(out, Output)
    out.as_json = as_json or bool(out.as_json)
    return out


def check_mode(mode: str, known: tuple[str, ...]) -> None:
    """Raise UsageError unless `mode` is one of `known`."""
    if mode not in known:
        raise UsageError(f"--mode is one of {', '.join(known)}, not {mode!r}")


def text_of(argument: str) -> str:
    """Return an argument as text that can be stored: bytes that are not UTF-8 become U+FFFD."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
