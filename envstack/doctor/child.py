"""Trials in a forked child that has a mount namespace of its own: what it mounts, nobody else sees.

The kernel takes all of it back when the child ends, however it ends. Owns the fork, the pipe and
the namespaces; what is tried is for the callers to say.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.errors import EnvstackError
from envstack.linux import syscalls as sys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    Trials = Mapping[str, Callable[[], str]]
    """What to try in turn, by name: each returns what it found, or raises why it cannot be."""

_SECONDS = 20.0
"""How long all trials of a child may take: mounting waits for a file system that hangs."""

_NOBODY = 65534
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a trial worked, with what it found or why not."""

    worked: bool
    said: str


Outcomes = dict[str, Outcome]
"""By name; a trial that was not come to has none, and the one that ended the child neither."""


def outcomes(trials: Trials) -> Outcomes:
    """Run the trials in a forked child, in their order, and return what came of each.

    Raises OSError where there can be no child.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run(trials, writing)
    os.close(writing)
    try:
        return _parsed(_read_to_end(reading))
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _run(trials: Trials, pipe: int) -> NoReturn:
    """Be the child: nothing of the parent's must run here, not even on the way out."""
    try:
        for name, trial in trials.items():
            try:
                told = [name, True, trial()]
            except Exception as error:  # nobody above is to meet it in this process
                told = [name, False, _reason(error)]
            os.write(pipe, json.dumps(told).encode() + b"\n")
    finally:
        os._exit(0)


def _reason(error: Exception) -> str:
    match error:
        case EnvstackError():
            return error.message
        case OSError(strerror=str(reason)):
            return reason
    return f"{type(error).__name__}: {error}"


def _read_to_end(pipe: int) -> bytes:
    """Return what the child says until it ends or its time is over."""
    deadline = time.monotonic() + _SECONDS
    said = b""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while poll.poll(max(deadline - time.monotonic(), 0) * 1000):
        data = os.read(pipe, _READ_BYTES)
        if not data:
            break
        said += data
    return said


def _parsed(said: bytes) -> Outcomes:
    whole = said.split(b"\n")[:-1]
    rows = [json.loads(line) for line in whole]
    return {name: Outcome(worked, words) for name, worked, words in rows}


def enter_mount_namespace() -> None:
    """Move this process into a mount namespace that tells nobody of its mounts.

    With a user namespace around it unless this is root. Raises OSError where that is not allowed.
    """
    if os.geteuid() == 0:
        sys.unshare(sys.CLONE_NEWNS)
    else:
        enter_user_namespace()
    sys.set_propagation(b"/", sys.MS_REC | sys.MS_PRIVATE)


def enter_user_namespace() -> None:
    """Move this process into a user and a mount namespace, as their root.

    As an ordinary user, which root turns into first: what root may do tells nothing of users.
    Raises OSError where that is not allowed.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        sys.set_dumpable()
    user, group = os.geteuid(), os.getegid()
    sys.unshare(sys.CLONE_NEWUSER | sys.CLONE_NEWNS)
    for name, text in (
        ("setgroups", b"deny"),
        ("uid_map", b"0 %d 1" % user),
        ("gid_map", b"0 %d 1" % group),
    ):
        with open(f"/proc/self/{name}", "wb") as file:
            file.write(text)
