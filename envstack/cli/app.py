"""The program: which commands there are, the options before them, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from envstack import __version__
from envstack.cli import (
    completion,
    daemon,
    diff,
    doctor,
    environments,
    history,
    log,
    stack,
    status,
    trust,
    watch,
)
from envstack.cli import (
    run as running,
)
from envstack.cli.command import Command, Group, Json, begin
from envstack.cli.output import Output, PipeClosedError
from envstack.errors import Cancelled, EnvstackError, NotFound, Unsupported, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_PIPE_CLOSED = 128 + 13
"""What a shell reports of a program that SIGPIPE has ended."""

_Directory = Annotated[
    str | None, typer.Option("-C", metavar="DIR", help="Start in DIR.", show_default=False)
]
_Version = Annotated[bool, typer.Option("--version", help="Print the version.")]


def run(arguments: Sequence[str]) -> int:
    """Run the command that `arguments` name and return the exit code; raises KeyboardInterrupt."""
    out = Output(os.environ)
    program = typer.main.get_command(_program())
    if completion.VARIABLE in os.environ:
        out.show(None, completion.answers(program, arguments))
        return 0
    try:
        code = program.main(
            args=list(arguments), prog_name="envstack", standalone_mode=False, obj=out
        )
    except PipeClosedError:
        return _PIPE_CLOSED
    except Exception as error:
        if out.as_json is None:  # the arguments were not read to their end
            out.as_json = "--json" in arguments
        told = _explain(error)
        out.fail(told)
        return told.exit_code
    return code if isinstance(code, int) else 0


class _InternalError(EnvstackError):
    """A fault of envstack's own."""

    kind = "internal"

    def details(self) -> dict[str, str]:
        if os.environ.get("ENVSTACK_LOG", "").lower() != "debug":
            return {}
        import traceback

        return {"traceback": "".join(traceback.format_exception(self.__cause__))}


def _explain(error: Exception) -> EnvstackError:
    """Return `error` as one to show a user."""
    match error:
        case EnvstackError():
            return error
        case typer.TyperException():
            return _usage(error)
        case typer.Abort():
            return Cancelled("interrupted")
    told = _InternalError(
        f"internal error: {type(error).__name__}: {error} (this is a bug)",
        "ENVSTACK_LOG=debug shows where",
    )
    told.__cause__ = error
    return told


def _usage(error: typer.TyperException) -> UsageError:
    message = error.format_message().rstrip(".")
    ctx = getattr(error, "ctx", None)
    command = ctx.command_path if ctx is not None else "envstack"
    return UsageError(message[:1].lower() + message[1:], f"{command} --help")


def _begin(
    ctx: typer.Context,
    directory: _Directory = None,
    json: Json = False,
    version: _Version = False,
) -> None:
    """Snapshots of a working directory: layers, kept mounted as one tree, checkpointed at once.

    \b
    Begin with:
      envstack init                       # a first envstack.yaml for this directory
      envstack up                         # the merged tree: .envstack/merged
      envstack checkpoint -m "it works"   # after changes there
      envstack diff                       # what changed since
      envstack rollback                   # as it was at the checkpoint

    The environment is the one whose merged tree you are in, else that of the nearest
    envstack.yaml upwards. A revision (REV) is @ (the head), @~N, a tag, an id or its
    beginning, or base.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage or stack file, 3 no such thing,
    4 not in a state for that (nothing is up, no daemon runs), 5 this machine cannot,
    6 damaged data, 7 no talking to the daemon, 130 cancelled.
    """
    if sys.platform != "linux":
        raise Unsupported("envstack works on Linux alone: it needs overlayfs")
    if version:
        out = begin(ctx, json)
        out.show({"version": __version__}, [f"envstack {__version__}"])
        raise typer.Exit
    if json:
        begin(ctx, json)
    if ctx.invoked_subcommand is None:
        _teach(ctx, json)
    if directory is not None:
        _enter(directory)


def _teach(ctx: typer.Context, json: bool) -> NoReturn:
    """End a call without a command, which is wrong usage, with the help."""
    if json:
        ctx.fail("no command given")
    begin(ctx, json).tell(ctx.get_help())
    raise typer.Exit(UsageError.exit_code)


def _enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no directory {directory}") from None
    except OSError as error:
        raise EnvstackError(f"{directory} cannot be entered: {error.strerror}") from error


def _program() -> typer.Typer:
    program = typer.Typer(
        cls=Group, add_completion=False, rich_markup_mode=None, invoke_without_command=True
    )
    program.callback()(_begin)
    for command in (
        *(stack.init, stack.validate, stack.schema),
        *(environments.up, trust.trust, environments.down, status.status, status.ls),
        *(history.checkpoint, history.rollback, log.log),
    ):
        program.command(cls=Command)(command)
    program.command(cls=diff.DiffCommand)(diff.diff)
    program.command(cls=watch.WatchCommand)(watch.watch)
    program.command(cls=Command)(watch.sync)
    program.command(cls=running.RunCommand)(running.run)
    program.command(cls=Command)(running.shell)
    for extra in (doctor.doctor, completion.completion):
        program.command(cls=Command)(extra)
    by_hand = typer.Typer(cls=Group, help="The daemon by hand; other commands start it as needed.")
    by_hand.command(cls=Command)(daemon.run)
    for other in (daemon.start, daemon.stop, daemon.status, daemon.logs):
        by_hand.command(cls=Command)(other)
    program.add_typer(by_hand, name="daemon")
    return program
