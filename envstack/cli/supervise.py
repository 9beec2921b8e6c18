"""A command as a child of this process, which is to the outside what the command itself would be.

Both are of one process group, so what a terminal sends reaches the command without our help. What
somebody sends to this process alone is passed on; and when the command is stopped, so are we.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from envstack.linux import proc
from envstack.linux.syscalls import set_child_subreaper, set_death_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

_JOB_CONTROL = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""Not SIGSTOP: by that a daemon without cgroups has commands stand still, and unseen."""

_PASSED_ON = _JOB_CONTROL | {
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH),
}
_WATCHED = _PASSED_ON | {signal.SIGCHLD}

_NOT_RUN = 125
_PAUSE = 0.001


def run(become: Callable[[], NoReturn]) -> int:
    """Run what `become` turns a child into, to its end; return its exit code, or less than 0 for a
    signal.

    What `become` cannot do it says itself. The command ends when this process is killed.
    """
    with _signals_held() as before:
        return _wait(_start(become, before))


def run_below(
    become: Callable[[], NoReturn], child_of: Callable[[int], int | None]
) -> tuple[int, bool]:
    """Run what `become` turns a child into, for the sake of the command that this one starts.

    `child_of` is told the child's process id, and waits for that of the command: None where there
    will be none. Once the command runs, the child is killed, because it would neither pass a signal
    on nor outlive Ctrl-C, and the command is a child of this process from then on. Returns as `run`
    does, and whether that is the command's: else it is the child's, which has seen the end.
    """
    set_child_subreaper()
    with _signals_held() as before:
        between = _start(become, before)
        command = child_of(between)
        if command is not None and _runs(command, between):
            # Who is stopped reaps nobody: an end that was not seen yet is for us to see.
            os.kill(between, signal.SIGSTOP)
            _, status = os.waitpid(between, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                return os.waitstatus_to_exitcode(status), False
            if os.path.exists(f"/proc/{command}"):
                os.kill(between, signal.SIGKILL)
                os.waitpid(between, 0)
                return _wait(command), True
            os.kill(between, signal.SIGCONT)
        return _wait(between), False


def end_by(number: int) -> None:
    """End this process by the signal that has ended the command: a shell makes a difference."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # there is nothing to be seen in this one
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def _signals_held() -> Iterator[set[signal.Signals | int]]:
    """Take signals by waiting for them alone; yields which were held back before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        yield before
    finally:
        while signal.sigtimedwait(_WATCHED, 0):  # Ctrl-C was for the command
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(become: Callable[[], NoReturn], mask: set[signal.Signals | int]) -> int:
    pid = os.fork()
    if pid:
        while early := signal.sigtimedwait(_PASSED_ON, 0):  # perhaps it came before the child
            _send(pid, early.si_signo)
        return pid
    try:
        set_death_signal(signal.SIGKILL)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        become()
    finally:
        os._exit(_NOT_RUN)  # whatever was wrong: nothing of the parent's must go on here


def _runs(command: int, between: int) -> bool:
    """Wait until `command` executes what it is to be; False where it has ended before we look."""
    try:
        own = proc.read(b"/proc/%d/cmdline" % between)
        while proc.read(b"/proc/%d/cmdline" % command) in (own, b""):  # none amid execve(2)
            if proc.has_ended(command):
                return False
            time.sleep(_PAUSE)
    except proc.GONE:
        return False
    return True


def _wait(pid: int) -> int:
    """Wait for the end of the child `pid`, and meanwhile pass on what is sent to this process."""
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if ended == pid and not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status)
        if ended == pid and os.WSTOPSIG(status) in _JOB_CONTROL:
            _stop(os.WSTOPSIG(status))
        if ended:  # or what the command has left behind, and is our child for that
            continue
        heard = signal.sigwaitinfo(_WATCHED)
        if heard.si_code <= 0 and heard.si_signo != signal.SIGCHLD:
            _send(pid, heard.si_signo)  # by a process: what the terminal sends, it has got


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _stop(number: int) -> None:
    """Be stopped by a signal, and return when somebody lets us go on."""
    os.kill(os.getpid(), number)  # held back as yet: with what the terminal has sent it is one
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
