"""A command as a child of this process, which is to the outside what the command itself would be.

Both are of one process group, so what a terminal sends reaches the command without our help. What
somebody sends to this process alone is passed on; and when the command is stopped, so are we.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from envstack.linux.syscalls import set_death_signal

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_JOB_CONTROL = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""Not SIGSTOP: by that a daemon without cgroups has commands stand still, and unseen."""

_PASSED_ON = _JOB_CONTROL | {
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH),
}
_WATCHED = _PASSED_ON | {signal.SIGCHLD}

_NOT_RUN = 125


def run(become: Callable[[], NoReturn], receiver: Callable[[int], int]) -> int:
    """Run what `become` turns a child into, to its end; return its exit code as a shell has it.

    What `become` cannot do it says itself. `receiver` is told the child's process id and returns
    whom signals are for; it may wait. The command ends with this process, however that ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                set_death_signal(signal.SIGKILL)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                become()
            finally:
                os._exit(_NOT_RUN)  # whatever was wrong: nothing of the parent's must go on here
        return _wait(pid, receiver(pid))
    finally:
        while signal.sigtimedwait(_WATCHED, 0):  # Ctrl-C was for the command
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(pid: int, receiver: int) -> int:
    """Wait for the end of the child `pid`; what is sent to this process is for `receiver`."""
    while True:
        heard = signal.sigwaitinfo(_WATCHED)
        if heard.si_signo != signal.SIGCHLD:
            if heard.si_code <= 0:  # by a process: what the terminal sends, the command has got
                with suppress(ProcessLookupError):
                    os.kill(receiver, heard.si_signo)
            continue
        ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if ended and os.WIFSTOPPED(status):
            if os.WSTOPSIG(status) in _JOB_CONTROL:
                _stop(os.WSTOPSIG(status))
        elif ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _stop(number: int) -> None:
    """Be stopped by a signal, and return when somebody lets us go on."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
