"""The daemon as a process: to start one, and to wait for the end of one."""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING

from envstack.client.connection import RemoteError
from envstack.errors import NoDaemon

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO

    from envstack.rpc.places import Places

_READ_BYTES = 1 << 16
_STDERR_SHOWN = 500


def own_command() -> tuple[str, ...]:
    """Return the command that runs the daemon of this very program."""
    import sys

    return (sys.executable, "-m", "envstack", "daemon", "run")


def start(places: Places, command: Sequence[str], deadline: float) -> bool:
    """Start a daemon and wait until it serves; return False where another one has the lock.

    `deadline` is of the monotonic clock. Raises RemoteError with the daemon's own words, NoDaemon
    where it had none.
    """
    import json

    last = _words(command, deadline).strip().rpartition(b"\n")[2]
    try:
        verdict = json.loads(last)
        error = verdict.get("error")
    except (ValueError, AttributeError):
        said = (
            last.decode("utf-8", "replace")[:_STDERR_SHOWN] or "nothing, in the time it was given"
        )
        hint = f"see {os.fsdecode(places.log)}"
        raise NoDaemon(f"the daemon did not start; it said: {said}", hint) from None
    if error is None:
        return True
    remote = RemoteError(str(error.get("message")), error)
    if remote.kind == "already-running":
        return False
    raise remote


def _words(command: Sequence[str], deadline: float) -> bytes:
    """Run the daemon's command; return what came from it through its pipe and standard error."""
    import subprocess

    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as pipe:
        try:
            parent = subprocess.Popen(
                [*command, "--ready-fd", str(write_end)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=write_end,
                pass_fds=(write_end,),
                start_new_session=True,
                cwd=_program_directory(),
            )
        finally:
            os.close(write_end)
        try:
            return b"".join(_read_to_end(pipe, deadline))
        finally:
            # The daemon is a child of this process and goes on without it.
            parent.kill()
            parent.wait()


def _program_directory() -> str:
    """Return where the package lies, so that `python -m` finds this one; the daemon leaves it."""
    import envstack

    return os.path.dirname(os.path.dirname(os.path.abspath(envstack.__file__)))


def _read_to_end(pipe: FileIO, deadline: float) -> Iterator[bytes]:
    while has_input(pipe.fileno(), deadline):
        data = pipe.read(_READ_BYTES)
        if not data:
            return
        yield data


def has_input(fd: int, deadline: float) -> bool:
    """Wait for input on `fd`, or for the end of the process that it stands for (pidfd_open(2))."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(deadline - time.monotonic(), 0) * 1000))


@contextlib.contextmanager
def watched(pid: int) -> Iterator[int | None]:
    """Yield a descriptor of the process, None if it has ended or is in no pid namespace of ours."""
    try:
        fd = os.pidfd_open(pid) if pid > 0 else None
    except ProcessLookupError:
        fd = None
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)
