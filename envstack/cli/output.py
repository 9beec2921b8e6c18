"""Where a command's words go: results to standard output, errors and progress to standard error.

Owns the two forms of each: text for people, one JSON document for programs (`--json`). A terminal
gets colours unless `NO_COLOR` is set (no-color.org); whatever else reads gets plain lines, which
are never wrapped.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from envstack.cli.progress import ProgressLine
from envstack.cli.text import coloured, columns, escaped, holders, terms, uncoloured
from envstack.errors import EnvstackError, StackFileError
from envstack.rpc.messages import Output as CommandOutput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from envstack.rpc.messages import Progress

_STDOUT, _STDERR = 1, 2

_MOMENT = 200
"""Milliseconds: soon enough for an eye that follows a log, seldom enough to cost nothing."""

_BUFFER = 1 << 16
"""Bytes that wait for more before they are written."""


class PipeClosedError(Exception):
    """Nobody reads standard output any more."""


class Output:
    """The standard streams of this process. `as_json` is None until the arguments are read."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.as_json: bool | None = None
        self.encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        smart = environ.get("TERM") != "dumb"
        wanted = smart and not environ.get("NO_COLOR")
        self.paint = coloured if wanted and os.isatty(_STDOUT) else uncoloured
        self.paint_errors = coloured if wanted and os.isatty(_STDERR) else uncoloured
        has_terminal = smart and os.isatty(_STDERR)
        self._progress = ProgressLine(self._complain, _STDERR if has_terminal else None)

    @property
    def width(self) -> int | None:
        """The columns of the terminal; None where standard output is none."""
        return os.get_terminal_size(_STDOUT).columns if os.isatty(_STDOUT) else None

    @property
    def room(self) -> int | None:
        """The columns that a line may take; None where nothing is known to be too long."""
        return self.width or None

    def columns(self, rows: Sequence[Sequence[str]]) -> Iterator[str]:
        """Yield rows as lines, their cells under one another as this encoding shows them."""
        return columns(
            [[self._encoded(cell).decode(self.encoding) for cell in row] for row in rows]
        )

    def show(self, value: Any, lines: Iterable[str]) -> None:
        """Print a result: `value` as JSON, or `lines` for people, as they come.

        Raises PipeClosedError, and EnvstackError where it cannot be written.
        """
        if self.as_json:
            lines = [json.dumps(value, separators=(",", ":"))]
        self.write(self._encoded(f"{line}\n") for line in lines)

    def show_each(self, rows: Iterable[Any]) -> None:
        """Print a list as JSON, row by row: it need not fit into memory. Raises as `show` does."""
        parts = (json.dumps(row, separators=(",", ":")).encode("ascii") for row in rows)
        self.write(_as_list(parts))

    def write(self, parts: Iterable[bytes]) -> None:
        """Write bytes to standard output, as they come. Raises as `show` does."""
        self._progress.clear()
        waiting = bytearray()
        for part in parts:
            waiting += part
            if len(waiting) >= _BUFFER:
                self._deliver(waiting)
                waiting.clear()
        self._deliver(waiting)

    def show_help(self, text: str) -> None:
        """Print the help of a command, with `--json` too. Raises as `show` does."""
        self.write([self._encoded(f"{text}\n")])

    def _encoded(self, text: str) -> bytes:
        return text.encode(self.encoding, "backslashreplace")

    def _deliver(self, data: bytes | bytearray) -> None:
        try:
            _write(_STDOUT, data)
        except BrokenPipeError:
            raise PipeClosedError from None
        except OSError as error:
            raise EnvstackError(f"standard output cannot be written: {error.strerror}") from error

    def wait(self) -> None:
        """Wait for a moment; raises PipeClosedError once nobody reads standard output any more."""
        self._poll(select.poll(), _MOMENT)

    def wait_for(self, descriptor: int, seconds: float | None = None) -> bool:
        """Wait for input on `descriptor`; return False where there was none for that long.

        Raises PipeClosedError once nobody reads standard output any more.
        """
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return self._poll(poll, None if seconds is None else max(seconds, 0) * 1000)

    def _poll(self, poll: select.poll, milliseconds: float | None) -> bool:
        poll.register(_STDOUT, 0)  # the end of a pipe is told in any case, poll(2)
        with _bell() as bell:
            poll.register(bell, select.POLLIN)
            while (ready := {found for found, _ in poll.poll(milliseconds)}) == {bell}:
                os.read(bell, _BUFFER)
        if _STDOUT in ready:
            raise PipeClosedError
        return bool(ready)

    def fail(self, error: EnvstackError) -> None:
        """Print an error on standard error."""
        # Late: most commands succeed.
        from envstack.rpc.shapes import error as error_shape

        self._progress.clear()
        shape = error_shape(error)
        lines = [json.dumps({"error": shape})] if self.as_json else self._error_lines(shape)
        self._complain("".join(f"{line}\n" for line in lines))

    def notice(self, value: Progress | CommandOutput) -> None:
        """Show what comes before the answer to a request."""
        if isinstance(value, CommandOutput):
            self.stream(value.text)
        else:
            self.progress(value)

    def progress(self, value: Progress) -> None:
        """Show how far a request has come; not where a program reads."""
        if not self.as_json:
            self._progress.update(value)

    def stream(self, text: str) -> None:
        """Show what a command says that the request runs, above how far the request has come.

        To standard error; not at all with `--json`.
        """
        if not self.as_json:
            self._progress.stream(text)

    def tell(self, line: str) -> None:
        """Print a line for people on standard error."""
        self._progress.clear()
        self._complain(f"{line}\n")

    def ask(self, question: str) -> bool:
        """Put a question on the terminal and return whether the answer is yes.

        What comes next begins on a line of its own, however the question ended.
        """
        self._progress.clear()
        answer = ""
        try:
            self._complain(f"{question} [y/N] ")
            answer = sys.stdin.readline()
        finally:
            if not answer.endswith("\n"):
                self._complain("\n")
        return answer.strip().lower() in ("y", "yes")

    def can_ask(self) -> bool:
        """Whether somebody sits there who can answer: a terminal, and no `--json`."""
        return not self.as_json and os.isatty(0) and os.isatty(_STDERR)

    def _error_lines(self, shape: dict[str, Any]) -> Iterable[str]:
        paint = self.paint_errors
        if shape["kind"] == StackFileError.kind:  # a report of its own, many lines long
            yield from (escaped(line) for line in shape["message"].split("\n"))
        else:
            yield paint("red", "error:") + " " + escaped(shape["message"])
        if shape.get("commands") or shape.get("addresses"):  # the hint is to be seen after them
            yield from terms(shape, paint)
        if shape["hint"]:
            yield paint("cyan", "hint:") + " " + escaped(shape["hint"])
        if shape.get("holders"):
            yield from holders(shape["holders"], paint)
        yield from shape.get("traceback", "").splitlines()

    def _complain(self, text: str) -> None:
        try:
            _write(_STDERR, text.encode("utf-8", "backslashreplace"))
        except OSError:
            return  # with standard error gone there is nobody left to tell; the exit code tells


@contextmanager
def _bell() -> Iterator[int]:
    """Give a descriptor that becomes readable when a signal comes.

    One that comes just before a wait begins would be noticed after it, which may be never.
    """
    bell, rope = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(rope, warn_on_full_buffer=False)
    try:
        yield bell
    finally:
        signal.set_wakeup_fd(before)
        os.close(bell)
        os.close(rope)


def _as_list(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield JSON values as one JSON list, one a line."""
    opening = b"["
    for part in parts:
        yield opening + part
        opening = b",\n"
    yield b"]\n" if opening != b"[" else b"[]\n"


def _write(descriptor: int, data: bytes | bytearray) -> None:
    """Write all of `data`, past Python's buffers: what failed must not be tried again at exit."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
