"""A command in a mount and a pid namespace of its own: what its init does, from fork to end.

The init is the first process of the pid namespace. With it the kernel ends all that is in there
(pid_namespaces(7)), so it has nothing to clean up, and nobody but it needs to be killed. It is a
fork of the launcher, and dies with it.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket

from envstack.linux import syscalls as sys
from envstack.linux.commands import (
    BORN,
    ENDED,
    FAILED,
    STARTED,
    Command,
    Descriptors,
    answer,
    reason,
    unpacked,
)
from envstack.linux.mountinfo import read_mounts

_ENVIRONMENTS = b"envstack:"
"""How the source of each mount begins that is an environment of anybody's."""


def run(descriptors: Descriptors, launcher: int) -> None:
    """Run the command that a request is about, and answer on its socket; then end the process.

    `launcher` is a pidfd of the parent. All of `descriptors` are closed.
    """
    sys.set_death_signal(signal.SIGKILL)
    if _has_ended(launcher):  # before the call above, or there will be a signal
        return
    os.close(launcher)
    with socket.socket(fileno=descriptors.control) as control:
        own = os.pidfd_open(os.getpid())
        socket.send_fds(control, [BORN], [own])
        os.close(own)
        try:
            pid = _start(unpacked(descriptors), descriptors.output)
        except Exception as error:  # a fault of this very code too: nobody else would tell of it
            control.send(answer(FAILED, reason(error)))
            return
        os.close(descriptors.words)
        os.close(descriptors.output)  # so that the reader sees it closed when the command did so
        control.send(STARTED)
        control.send(answer(ENDED, str(_status_of(pid))))


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _start(command: Command, output: int) -> int:
    """Set up the namespace and start the command in it; return its process id."""
    _take_own_mounts()
    _leave_environments()
    sys.mount_proc(b"/proc")
    _attach(command.mount, command.point)
    os.chdir(command.point)
    return _spawn(command, output)


def _take_own_mounts() -> None:
    """Enter a mount namespace that takes mounts from the one before, and gives none back."""
    sys.unshare(sys.CLONE_NEWNS)
    # The root directory may be changed, and then be no mount: the tree's own root must be seen.
    root = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    own = os.pidfd_open(os.getpid())
    sys.setns(own, sys.CLONE_NEWNS)
    sys.set_propagation(b"/", sys.MS_REC | sys.MS_SLAVE)
    os.fchdir(root)
    os.chroot(b".")
    os.close(own)
    os.close(root)


def _leave_environments() -> None:
    """Detach every copy of an environment, so that the command holds none of them.

    In a copied tree, what is mounted on something comes after it. A copy that is covered by another
    mount cannot be reached, and stays.
    """
    for mount in reversed(read_mounts()):
        if not mount.source.startswith(_ENVIRONMENTS):
            continue
        try:
            if sys.mount_id(mount.point) == mount.id:
                sys.umount(mount.point, sys.MNT_DETACH | sys.UMOUNT_NOFOLLOW)
        except OSError as error:
            # It went along with its original meanwhile.
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                raise


def _attach(mount: int, point: bytes) -> None:
    target = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sys.move_mount(mount, target)
    finally:
        os.close(target)
        os.close(mount)


def _spawn(command: Command, output: int) -> int:
    """Start the program in a session of its own, every signal as it is by default.

    posix_spawn(3) tells when a program cannot be executed, and looks in the caller's own PATH.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environb[b"PATH"] = command.environ.get(b"PATH", os.fsencode(os.defpath))
    return os.posix_spawnp(
        command.argv[0],
        command.argv,
        command.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)],
        setsid=True,
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )


def _status_of(pid: int) -> int:
    """Reap whatever ends until `pid` does; return its exit code, or less than 0 for a signal."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)
