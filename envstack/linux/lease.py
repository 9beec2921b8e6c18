"""Whether a file is open for writing, as a read lease tells (F_SETLEASE in fcntl(2))."""

from __future__ import annotations

import fcntl
import signal


def is_open_for_writing(fd: int) -> bool:
    """Tell whether anybody has the file under `fd` open for writing, or mapped so.

    `fd` is open for reading alone. Where there are no leases, for the file system has none, the
    file is another user's or no lock is to be had, it may be open for writing: the answer is True.
    The lease is given back at once; whoever opens the file for writing in between waits for that
    (some microseconds), or is told EWOULDBLOCK if waiting is not what they want.
    """
    # That the lease is asked back is told by a signal, and SIGIO would end the process.
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return True
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
