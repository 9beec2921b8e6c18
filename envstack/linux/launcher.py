"""Commands in mount namespaces of their own, for a daemon that must not fork while it serves.

Owns the launcher's process (`launching`) and what of a running command is on this side: its output,
its end, and the way to end it. It neither mounts nor reads a word of the output. A child of the
daemon would hold the daemon's descriptors, hence its mounts, between fork and exec; the launcher is
started before there are any. Its process is also the guard of whoever is frozen (`guard`).
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from typing import TYPE_CHECKING, Self

import envstack
from envstack.errors import EnvstackError
from envstack.linux.commands import (
    ANSWER_BYTES,
    BORN,
    ENDED,
    FAILED,
    START,
    STARTED,
    Descriptors,
    packed,
    received,
)
from envstack.linux.guard import FREE, HOLD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from envstack.linux.commands import Command

_START_WITHIN = 30.0
_GONE_WITHIN = 30.0

_HINT = "end the daemon, so that the next command starts a new one: envstack daemon stop"


class Launcher:
    """The process that starts commands for this one; a context manager, usable from any thread.

    Make it while this process has nothing that a child must not have. When it ends, be it by
    SIGKILL, or when this process does, every command ends with it.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_START_WITHIN)
        with theirs:
            self._process = subprocess.Popen(
                # Without `site`, which it has no use for: a fifth of its memory and of its start.
                [sys.executable, "-S", "-m", "envstack.linux.launching"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a key pressed in the daemon's terminal is not for it
                cwd=os.path.dirname(os.path.dirname(os.path.abspath(envstack.__file__))),
            )

    @property
    def pid(self) -> int:
        """The process id of the launcher."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def start(self, command: Command) -> Running:
        """Start a command and return once it runs.

        The caller keeps `command.mount`, which is used up: another command takes another. Raises
        EnvstackError where the command cannot be started, with the reason.
        """
        with ExitStack() as theirs, ExitStack() as ours:
            control, far_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.enter_context(control)
            theirs.enter_context(far_control)
            output, far_output = os.pipe()
            ours.callback(os.close, output)
            theirs.callback(os.close, far_output)
            words = theirs.enter_context(_in_memory(packed(command)))
            request = Descriptors(words, command.mount, far_output, far_control.fileno())
            self._send(START, request)
            theirs.close()
            control.settimeout(_START_WITHIN)
            init = _born(control)
            running = ours.enter_context(Running(control, output, init, ours.pop_all()))
            _heard(control, STARTED)
            control.settimeout(None)
            ours.pop_all()
            return running

    def hold(self, order: bytes) -> None:
        """Have this order of `guard` carried out when this process ends, however it does.

        Raises EnvstackError where the launcher is gone.
        """
        self._send(HOLD + order)

    def free(self, order: bytes) -> None:
        """Take back an order; raises as `hold` does."""
        self._send(FREE + order)

    def _send(self, word: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._socket, [word], descriptors)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _launcher_gone() from error
        except TimeoutError as error:
            raise _too_slow() from error


class Running:
    """A command that runs. Leaving the context ends it and all that it started, whatever that is.

    `output` is the read end of a pipe with what it writes to standard output and standard error.
    The object itself can be waited for (`fileno`): readable means that `wait` will not block.
    `wait` and the end of the context are for one thread; `kill` may be called from any.
    """

    def __init__(self, control: socket.socket, output: int, init: int, held: ExitStack) -> None:
        """`init` is a pidfd, and closed at the end; `held` closes the others."""
        self.output = output
        self._control = control
        self._init = init
        self._held = held
        self._held.callback(os.close, init)
        self._closing = threading.Lock()
        self._closed = False
        self._killed = False
        self._status: int | None = None

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the command has ended."""
        return self._control.fileno()

    def wait(self) -> int:
        """Block until the command has ended; return its exit code, or less than 0 for a signal.

        All that it had started and left behind ends with it. Raises EnvstackError where it was
        somebody else than `kill` that ended it in such a way that its status is not known.
        """
        if self._status is None:
            said = self._control.recv(ANSWER_BYTES)
            if said:
                self._status = int(said.removeprefix(ENDED))
            elif self._killed:
                self._status = -signal.SIGKILL
            else:
                raise EnvstackError("the command was killed from outside, with all it had started")
        return self._status

    def kill(self) -> None:
        """End the command and all that it started, daemons included; no harm after the end."""
        with self._closing:
            if not self._closed:
                self._killed = True
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._init, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Raises EnvstackError where something does not end, as in a file system that hangs."""
        try:
            self.kill()
            self._await_end()
        finally:
            with self._closing:
                self._closed = True
                self._held.close()

    def _await_end(self) -> None:
        """Wait until nobody but the caller holds the mount.

        The init has ended when all else in its pid namespace has. Of the launcher's copies of what
        came with the request, that of the socket is closed last.
        """
        end = select.poll()
        end.register(self._init, select.POLLIN)
        self._control.settimeout(_GONE_WITHIN)
        try:
            ended = end.poll(_GONE_WITHIN * 1000)
            while ended and self._control.recv(ANSWER_BYTES):
                pass
        except TimeoutError:
            ended = []
        if not ended:
            raise EnvstackError(f"what a command started does not end in {_GONE_WITHIN:.0f} s")


@contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """Yield the descriptor of a file with this content that no directory has (memfd_create(2))."""
    file = FileIO(os.memfd_create("envstack-command"), "w")
    with file:
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]
        yield file.fileno()


def _born(control: socket.socket) -> int:
    """Wait for the init and return a pidfd of it."""
    fds = _heard(control, BORN)
    if not fds:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return fds[0]


def _heard(control: socket.socket, word: bytes) -> list[int]:
    """Wait for `word`; return what came with it. Raises EnvstackError for anything else."""
    try:
        said, fds = received(control, 1)
    except TimeoutError as error:
        raise _too_slow() from error
    if said == word:
        return fds
    if not said:
        raise _launcher_gone()
    why = said.removeprefix(FAILED).strip().decode("utf-8", "replace")
    raise EnvstackError(f"the command cannot be started: {why}")


def _launcher_gone() -> EnvstackError:
    return EnvstackError("the process that starts commands has ended", _HINT)


def _too_slow() -> EnvstackError:
    return EnvstackError(f"the command could not be started in {_START_WITHIN:.0f} s")
