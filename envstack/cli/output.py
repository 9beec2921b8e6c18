"""Where a command's words go: results to standard output, errors and progress to standard error.

Owns the two forms of each: text for people, one JSON document for programs (`--json`). A terminal
gets colours unless `NO_COLOR` is set (no-color.org); whatever else reads gets plain lines, which
are never wrapped.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from envstack.cli.text import coloured, commands, escaped, holders, uncoloured
from envstack.errors import EnvstackError, StackFileError
from envstack.rpc.messages import Output as CommandOutput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from envstack.rpc.messages import Progress

_STDOUT, _STDERR = 1, 2


class PipeClosedError(Exception):
    """Nobody reads standard output any more."""


class Output:
    """The standard streams of this process. `as_json` is None until the arguments are read."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.as_json: bool | None = None
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        smart = environ.get("TERM") != "dumb"
        wanted = smart and not environ.get("NO_COLOR")
        self.paint = coloured if wanted and os.isatty(_STDOUT) else uncoloured
        self.paint_errors = coloured if wanted and os.isatty(_STDERR) else uncoloured
        self._shows_progress = smart and os.isatty(_STDERR)
        self._progress_shown = False

    @property
    def width(self) -> int | None:
        """The columns of the terminal; None where standard output is none."""
        return os.get_terminal_size(_STDOUT).columns if os.isatty(_STDOUT) else None

    def show(self, value: Any, lines: Iterable[str]) -> None:
        """Print a result: `value` as JSON, or `lines` for people.

        Raises PipeClosedError, and EnvstackError where it cannot be written.
        """
        self._clear_progress()
        if self.as_json:
            lines = [json.dumps(value, separators=(",", ":"))]
        text = "".join(f"{line}\n" for line in lines)
        try:
            _write(_STDOUT, text.encode(self._encoding, "backslashreplace"))
        except BrokenPipeError:
            raise PipeClosedError from None
        except OSError as error:
            raise EnvstackError(f"standard output cannot be written: {error.strerror}") from error

    def fail(self, error: EnvstackError) -> None:
        """Print an error on standard error."""
        # Late: most commands succeed.
        from envstack.rpc.shapes import error as error_shape

        self._clear_progress()
        shape = error_shape(error)
        lines = [json.dumps({"error": shape})] if self.as_json else self._error_lines(shape)
        self._complain("".join(f"{line}\n" for line in lines))

    def notice(self, value: Progress | CommandOutput) -> None:
        """Show what comes before the answer to a request."""
        if isinstance(value, CommandOutput):
            self.stream(value.text)
        else:
            self.progress(value)

    def stream(self, text: str) -> None:
        """Pass on what a command prints, to standard error; not at all with `--json`."""
        if self.as_json:
            return
        self._clear_progress()
        self._complain(text)

    def progress(self, value: Progress) -> None:
        """Show how far a request has come, on a terminal alone, each time in place of the last."""
        if self.as_json or not self._shows_progress:
            return
        done = "" if value.done is None else f" {value.done:,}"
        total = "" if value.total is None else f" of {value.total:,}"
        line = escaped(value.message) + done + total
        width = os.get_terminal_size(_STDERR).columns or 80
        self._progress_shown = True  # first, because Ctrl-C may come in between
        self._complain(f"\r\x1b[2K{line[: width - 1]}")

    def tell(self, line: str) -> None:
        """Print a line for people on standard error."""
        self._clear_progress()
        self._complain(f"{line}\n")

    def ask(self, question: str) -> bool:
        """Put a question on the terminal and return whether the answer is yes."""
        self._clear_progress()
        self._complain(f"{question} [y/N] ")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def can_ask(self) -> bool:
        """Whether somebody sits there who can answer: a terminal, and no `--json`."""
        return not self.as_json and os.isatty(0) and os.isatty(_STDERR)

    def _error_lines(self, shape: dict[str, Any]) -> Iterable[str]:
        paint = self.paint_errors
        if shape["kind"] == StackFileError.kind:  # a report of its own, many lines long
            yield from (escaped(line) for line in shape["message"].split("\n"))
        else:
            yield paint("red", "error:") + " " + escaped(shape["message"])
        if shape["hint"]:
            yield paint("cyan", "hint:") + " " + escaped(shape["hint"])
        if shape.get("holders"):
            yield from holders(shape["holders"], paint)
        if shape.get("commands"):
            yield from commands(shape["commands"], paint)
        yield from shape.get("traceback", "").splitlines()

    def _clear_progress(self) -> None:
        if self._progress_shown:
            self._progress_shown = False
            self._complain("\r\x1b[2K")

    def _complain(self, text: str) -> None:
        try:
            _write(_STDERR, text.encode("utf-8", "backslashreplace"))
        except OSError:
            return  # with standard error gone there is nobody left to tell; the exit code tells


def _write(descriptor: int, data: bytes) -> None:
    """Write all of `data`, past Python's buffers: what failed must not be tried again at exit."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
