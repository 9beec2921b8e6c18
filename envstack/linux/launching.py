"""The launcher's process: it forks for a daemon that must not, and outlives it by a moment.

`python -m envstack.linux.launching`, with the daemon's socket as standard input. It keeps nothing
of a command that it forked an init for: that one speaks with the daemon itself. It ends when the
daemon's end of the socket is closed, and each init ends with it. Before that it lets everybody go
on whom the daemon left frozen.
"""

from __future__ import annotations

import os
import signal
import socket

from envstack.linux import contained
from envstack.linux import syscalls as sys
from envstack.linux.commands import FAILED, START, Descriptors, answer, reason, received
from envstack.linux.guard import Guard

_FOUR = len(Descriptors._fields)


def main() -> None:
    """Be the launcher until the daemon ends."""
    with socket.socket(fileno=os.dup(0)) as requests:
        os.dup2(1, 0)  # the null device: what commands are to have as their standard input
        os.chdir("/")
        os.umask(0o022)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps: no child's end is awaited
        serve(requests)


def serve(requests: socket.socket) -> None:
    """Start what is asked for on the socket, until its other end is closed."""
    own = os.pidfd_open(os.getpid())
    guard = Guard()
    while True:
        said, fds = received(requests, _FOUR)
        if not said:
            guard.release()
            return
        if said != START:
            guard.hear(said)
            continue
        # Fewer arrive where there is no room for all; then the daemon sees its socket closed.
        if len(fds) == _FOUR:
            _launch(requests, own, Descriptors(*fds))
        for fd in fds:
            os.close(fd)


def _launch(requests: socket.socket, own: int, descriptors: Descriptors) -> None:
    """Fork the init of one command, which never returns from here."""
    try:
        pid = _fork_into_new_pid_namespace(own)
    except OSError as error:
        os.write(descriptors.control, answer(FAILED, reason(error)))
        return
    if pid == 0:
        try:
            requests.close()
            contained.run(descriptors, own)
        finally:
            os._exit(0)


def _fork_into_new_pid_namespace(own: int) -> int:
    """Fork a child that is the first process of a new pid namespace."""
    sys.unshare(sys.CLONE_NEWPID)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:  # back, for the kernel makes no other one while a new one is meant
            sys.setns(own, sys.CLONE_NEWPID)
    return pid


if __name__ == "__main__":
    main()
