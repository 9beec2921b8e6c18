"""`run` and `shell`: a command, or the user's shell, in the merged tree."""

from __future__ import annotations

import os
import shlex
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import Command, Json, begin, text_of
from envstack.cli.diff import changes
from envstack.cli.program import CannotRun, Program
from envstack.errors import Cancelled, EnvstackError, UsageError
from envstack.rpc.shapes import told_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from envstack.cli.output import Output
    from envstack.cli.sandbox import Sandbox

_FAILED = 125
"""As env(1) and Docker have it: the command cannot be blamed for it."""

_BY_SIGNAL = 128
"""What a shell adds to the number of the signal that has ended a command."""

_LISTED = 20
"""How many changes of a command are shown."""

_SHELL = b"/bin/sh"
_SHOWN_AT = b"/tmp/.envstack"
"""Where a shell inside a root file system finds what it reads for its prompt."""

_Command = Annotated[list[str] | None, typer.Argument(metavar="CMD…", hidden=True)]
_NoNetwork = Annotated[bool, typer.Option("--no-network", help="Cut it off from the network.")]
_Checkpoint = Annotated[bool, typer.Option("--checkpoint", help="Seal before and after.")]
_Message = Annotated[
    str | None,
    typer.Option("-m", "--message", metavar="MSG", help="What it is for.", show_default=False),
]


class RunCommand(Command):
    """Takes all that follows the first word that is no option as the command's own."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.allow_interspersed_args = False


class Failure(EnvstackError):
    """A fault of ours, told apart from what the command may exit with."""

    exit_code = _FAILED

    def __init__(self, error: EnvstackError) -> None:
        super().__init__(error.message, error.hint)
        self.kind = error.kind
        self._details = error.details()

    def details(self) -> dict[str, Any]:
        return self._details


def run(
    ctx: typer.Context,
    command: _Command = None,
    no_network: _NoNetwork = False,
    checkpoint: _Checkpoint = False,
    message: _Message = None,
    json: Json = False,
) -> None:
    """Run a command in the merged tree.

    It runs where you are, if that is in the merged tree, else at the tree's root, with your own
    variables, the stack's `env` over them, and ENVSTACK_ENV and ENVSTACK_MOUNT. A tree that has a
    /bin/sh, or whose stack file says `root: true`, is its root directory.

    --checkpoint seals before and after, and shows on standard error what the command changed.

    \b
    The exit code is the command's. Else:
      125 envstack itself failed, 126 the command cannot be executed, 127 there is none

    \b
    Examples:
      envstack run make test
      envstack run --checkpoint -m "upgrade" -- npm update
      envstack run --no-network -- sh -c 'make | tee log'
    """
    out = _begin(ctx, json, "CMD prints")
    if not command:
        raise UsageError("no command given", "envstack run CMD…, or envstack shell")
    if message is not None and not checkpoint:
        raise UsageError("-m goes with --checkpoint", "envstack run --checkpoint -m MSG CMD…")
    words = tuple(map(os.fsencode, command))
    with _own_failures():
        visit = _Visit.here(out, has_network=not no_network)
        if not checkpoint:
            _end(visit.run(words))
        said = text_of(message or shlex.join(command))
        _end(_run_between_checkpoints(out, visit, words, said))


def shell(ctx: typer.Context, no_network: _NoNetwork = False, json: Json = False) -> None:
    """Start your shell in the merged tree.

    As `envstack run` does with a command; the prompt tells which environment it is. In a root file
    system that has not the shell of $SHELL it is /bin/sh.

    \b
    Examples:
      envstack shell
      envstack shell --no-network
    """
    out = _begin(ctx, json, "a shell prints")
    with _own_failures():
        _end(_Visit.here(out, has_network=not no_network).run_shell())


def _begin(ctx: typer.Context, json: bool, why: str) -> Output:
    out = begin(ctx, json)
    if out.as_json:
        raise UsageError(f"there is no --json here: {why}", "leave it out")
    return out


def _end(code: int) -> NoReturn:
    """End as the command has ended; a signal is less than 0."""
    if code < 0:
        from envstack.cli import supervise

        supervise.end_by(-code)
    raise typer.Exit(_as_shells_do(code))


def _as_shells_do(code: int) -> int:
    return code if code >= 0 else _BY_SIGNAL - code


@contextmanager
def _own_failures() -> Iterator[None]:
    try:
        yield
    except (CannotRun, Cancelled, UsageError):
        raise
    except EnvstackError as error:
        raise Failure(error) from error
    except OSError as error:
        where = f": {error.filename!r}" if error.filename else ""
        raise Failure(EnvstackError(f"{error.strerror}{where}")) from error


@dataclass(slots=True)
class _Visit:
    """A command's stay in the merged tree of `target`; `standing` is where the caller stands."""

    out: Output
    target: place.Target
    standing: place.Standing
    has_network: bool

    @classmethod
    def here(cls, out: Output, *, has_network: bool) -> _Visit:
        calls.require_root()
        standing = place.standing()
        return cls(out, place.here(), standing, has_network)

    def settle(self) -> None:
        """Know the environment by its stack file: a checkpoint may exchange the upper."""
        self.target = {"stack": self.ask("env.glance")["stack"]}

    def ask(self, method: str, **params: Any) -> Any:
        return calls.ask(self.out, self.target, method, **params)

    def run(self, words: tuple[bytes, ...], *, stays: bool = False) -> int:
        """Run a command and return its exit code; unless this process `stays`, it becomes it."""
        row = self.ask("env.enter")
        return self._run(row, words, _environ(row), {}, stays=stays)

    def run_shell(self) -> int:
        """Run the user's shell and return its exit code."""
        from envstack.cli import prompt

        row = self.ask("env.enter")
        environ = _environ(row)
        chosen = environ.get(b"SHELL") or _SHELL
        if row["root"]:
            try:
                self._sandbox(row, {}).check(chosen, b"")
            except CannotRun:
                chosen = _SHELL
        shown = {_SHOWN_AT: prompt.FILES} if row["root"] else {}
        marked = prompt.marked(chosen, _SHOWN_AT if shown else prompt.FILES, environ)
        return self._run(row, marked.words, environ | marked.variables, shown, stays=False)

    def _run(
        self,
        row: dict[str, Any],
        words: tuple[bytes, ...],
        environ: dict[bytes, bytes],
        shown: dict[bytes, bytes],
        *,
        stays: bool,
    ) -> int:
        group = row["group"] and told_bytes(row["group"])
        if row["root"] or not self.has_network:
            sandbox = self._sandbox(row, shown)
            return self._run_in(sandbox, Program(words, environ, b"/", group))
        directory = self._directory(row)
        if directory != self.standing.path:
            environ = environ | {b"PWD": directory}
        program = Program(words, environ, directory, group)
        if group is not None and not stays:
            program.become()
        # Without a group it may be stopped by a signal, which nobody outside is to see.
        from envstack.cli import supervise

        return supervise.run(lambda: self._become(program))

    def _run_in(self, sandbox: Sandbox, program: Program) -> int:
        from envstack.cli import supervise
        from envstack.cli.sandbox import Report

        reading, writing = os.pipe()
        report = Report(reading)
        words = (*sandbox.words(writing), *program.words)
        sandbox.check(program.words[0], program.environ.get(b"PATH", os.fsencode(os.defpath)))
        inner = Program(words, program.environ, program.directory, program.group)

        def become() -> NoReturn:
            os.set_inheritable(writing, True)
            self._become(inner)

        def child_of(_bwrap: int) -> int | None:
            os.close(writing)
            return report.child()

        code, is_commands = supervise.run_below(become, child_of)
        return code if is_commands or report.has_run() or code < 0 else _FAILED

    def _become(self, program: Program) -> NoReturn:
        """Be the program, in a child: what goes wrong is said here."""
        try:
            program.become()
        except EnvstackError as error:
            told = error if isinstance(error, CannotRun) else Failure(error)
            self.out.fail(told)
            os._exit(told.exit_code)

    def _sandbox(self, row: dict[str, Any], shown: dict[bytes, bytes]) -> Sandbox:
        from envstack.cli.sandbox import Sandbox

        root = told_bytes(row["mount"]) if row["root"] else b"/"
        directory = self._directory(row)
        if row["root"]:
            directory = b"/" + os.path.relpath(directory, root)
        return Sandbox(root, os.path.normpath(directory), self.has_network, shown)

    def _directory(self, row: dict[str, Any]) -> bytes:
        return self.standing.within(told_bytes(row["mount"]))


def _environ(row: dict[str, Any]) -> dict[bytes, bytes]:
    """Return the user's own variables with the environment's over them."""
    own = {name.encode(): told_bytes(value) for name, value in row["env"].items()}
    return {**os.environb, **own}


def _run_between_checkpoints(
    out: Output, visit: _Visit, words: tuple[bytes, ...], message: str
) -> int:
    """Seal, run a command, seal again, and show what it changed; return its exit code."""
    visit.settle()
    before = visit.ask("env.checkpoint", message=f"before: {message}")["id"]
    code = visit.run(words, stays=True)
    try:
        after = visit.ask("env.checkpoint", message=message)["id"]
        _show(out, visit.ask("env.diff", a=before, b=after))
    except EnvstackError as error:
        out.fail(Failure(error))
        return code or _FAILED
    finally:
        if code:
            way_back = f"envstack rollback {before[: text.ID_SHOWN]}"
            name = text.name(os.fsdecode(words[0]))
            out.tell(
                out.paint_errors(
                    "yellow", f"{name} ended with {_as_shells_do(code)}; to go back: {way_back}"
                )
            )
    return code


def _show(out: Output, rows: list[dict[str, Any]]) -> None:
    *lines, totals = changes(rows, out.paint_errors)
    for line in lines[:_LISTED]:
        out.tell(line)
    if len(lines) > _LISTED:
        out.tell(out.paint_errors("dim", f"… and {len(lines) - _LISTED:,} more"))
    out.tell(totals)
