"""A program that takes the place of this process: where it runs, and what it is given.

Owns the way from here to there: the group that it joins, its directory, its signals, and what is
said where it cannot be executed.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.errors import EnvstackError

if TYPE_CHECKING:
    from typing import NoReturn

_NO_PROGRAM, _NO_SUCH = 126, 127
"""As env(1) and every shell have them."""


class CannotRun(EnvstackError):
    """The command is not there, or no program. `how` is the way to say that it is for a shell."""

    kind = "cannot-run"

    def __init__(self, name: str, how: str, *, is_there: bool) -> None:
        what = f"{name} cannot be executed" if is_there else f"there is no command {name}"
        super().__init__(what, f"{how} sh -c {name!r}" if " " in name else "")
        self.exit_code = _NO_PROGRAM if is_there else _NO_SUCH


@dataclass(frozen=True, slots=True)
class Program:
    """A program with its arguments, looked for in the PATH of `environ`.

    `group` is a file to write "0" to, by which it joins a cgroup with all that it starts.
    """

    words: tuple[bytes, ...]
    environ: dict[bytes, bytes]
    directory: bytes
    group: bytes | None

    def become(self) -> NoReturn:
        """Go on as the program. Raises CannotRun, and EnvstackError for what is not its fault."""
        self._join()
        try:
            os.chdir(self.directory)
        except OSError as error:
            where = os.fsdecode(self.directory)
            raise EnvstackError(f"{where} cannot be entered: {error.strerror}") from error
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvpe(self.words[0], self.words, self.environ)  # noqa: S606 - what it is for
        except OSError as error:
            is_there = not isinstance(error, FileNotFoundError | NotADirectoryError)
            name = os.fsdecode(self.words[0])
            raise CannotRun(name, "envstack run", is_there=is_there) from error

    def _join(self) -> None:
        if self.group is None:
            return
        try:
            descriptor = os.open(self.group, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"0")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise EnvstackError(
                f"the group of the environment cannot be joined: {error.strerror}", "try again"
            ) from error
