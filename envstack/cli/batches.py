"""`watch --for`: a command for each batch of changes, once the tree is settled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envstack.cli.program import CannotRun
from envstack.errors import EnvstackError
from envstack.rpc.shapes import path_bytes, told_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from envstack.cli.events import Event, Events
    from envstack.cli.output import Output

_GRACE = 5.0
"""Seconds that a command has to end after Ctrl-C."""

_FOR = "--for"


@dataclass(frozen=True, slots=True)
class Job:
    """A command that is run where the caller was; `separator` ends each path on its input."""

    words: Sequence[str]
    directory: bytes
    separator: bytes

    def check(self) -> None:
        """Raise CannotRun where it is not found from here."""
        name = self.words[0]
        if shutil.which(name) is None:
            raise CannotRun(name, _FOR, is_there=os.sep in name and os.path.exists(name))

    def run(self, paths: set[bytes], variables: dict[bytes, bytes]) -> int:
        """Run it to its end, and return its exit code as a shell has it.

        Ctrl-C ends it too. Raises CannotRun, and EnvstackError where its directory is gone.
        """
        with _interrupt_held() as release, self._started(variables) as child:
            try:
                release()
                child.communicate(b"".join(path + self.separator for path in sorted(paths)))
            except KeyboardInterrupt:
                _end(child)
                raise
        code: int = child.returncode
        return code if code >= 0 else 128 - code

    def _started(self, variables: dict[bytes, bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self.words,
                stdin=subprocess.PIPE,
                cwd=self.directory,
                env={**os.environb, **variables},
            )
        except OSError as error:
            if error.filename == self.directory:
                where = os.fsdecode(self.directory)
                raise EnvstackError(f"{where} cannot be entered: {error.strerror}") from error
            is_there = not isinstance(error, FileNotFoundError)
            raise CannotRun(self.words[0], _FOR, is_there=is_there) from error


@contextmanager
def _interrupt_held() -> Iterator[Callable[[], None]]:
    """Keep Ctrl-C back until what is yielded is called: before, nobody could end the command."""
    came = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True

    def release() -> None:
        signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # a command in the background inherits that
        signal.signal(signal.SIGINT, note)
    try:
        yield release
    finally:
        signal.signal(signal.SIGINT, before)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a command that Ctrl-C has not ended: it was meant for this process alone."""
    child.terminate()
    try:
        child.wait(_GRACE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()


@dataclass(slots=True)
class Batch:
    """Paths that changed, each once; `has_gap` where there may be more."""

    paths: set[bytes] = field(default_factory=set)
    has_gap: bool = False
    in_rollback: bool = False

    @property
    def is_due(self) -> bool:
        """Whether there is something to be told, and the tree may be looked at."""
        return not self.in_rollback and (self.has_gap or bool(self.paths))

    def add(self, event: Event) -> None:
        """Take in what an event tells."""
        match event["event"]:
            case "changes":
                self.paths.update(map(path_bytes, event["changes"]))
            case "rollback-begin":
                self.in_rollback = True
            case "rollback-end":
                self.in_rollback = False
            case "ready" if event["fresh"]:  # the end of a rollback may be among what is lost
                self.in_rollback = False


def run_each(out: Output, events: Events, job: Job, quiet: float, *, once: bool) -> int:
    """Run a command for each batch, when nothing was told for `quiet` seconds.

    Returns the exit code of the first where it is run `once`, else does not return.
    """
    batch, quiet_at = Batch(), 0.0
    variables: dict[bytes, bytes] = {}
    while True:
        event = events.next(quiet_at - time.monotonic() if batch.is_due else None)
        if event is not None:
            if event["event"] == "ready":
                variables = _variables(event)
            batch.add(event)
            batch.has_gap |= events.has_gap
            quiet_at = time.monotonic() + quiet
            continue
        code = job.run(batch.paths, variables)
        if once:
            return code
        if code:
            out.tell(out.paint_errors("yellow", f"{job.words[0]} {_outcome(code)}"))
        batch = Batch()


def _variables(ready: Event) -> dict[bytes, bytes]:
    """Return the environment variables that a command inside finds as well."""
    mount, name = told_bytes(ready["mount"]), told_bytes(ready["env"])
    return {b"ENVSTACK_MOUNT": mount, b"ENVSTACK_ENV": name}


def _outcome(code: int) -> str:
    try:
        return f"was ended by {signal.Signals(code - 128).name}"
    except ValueError:
        return f"ended with {code}"
