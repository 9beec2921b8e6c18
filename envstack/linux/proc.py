"""What /proc tells about the processes of this machine: facts, and no judgement of them.

Every fact may be gone when it is asked for, as a process may end at any time: the functions raise
what open(2) and its like raise then (`GONE`), and callers pass over that process or descriptor.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.linux.syscalls import KCMP_FILES, KCMP_FS, mount_id, shares

if TYPE_CHECKING:
    from collections.abc import Iterator

GONE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""ENOENT and ESRCH: it ended, or was closed, since it was listed. EACCES, EPERM: it is protected
from us by a security module, or we are not root, and then nobody can say what it holds."""

_COMMAND_LENGTH = 80
_PIECE = 1 << 16
_LINKS_OF_ONE = 3
"""Links of the directory `task` of a process with one thread: a thread adds one to those two that
every directory has (proc_task_getattr in fs/proc/base.c)."""

_LOCK = re.compile(rb"^lock:\t\d+: (?:FLOCK|POSIX|OFDLCK) ", re.MULTILINE)
_SOCKET = re.compile(rb"socket:\[(\d+)\]")
_BOUND = re.compile(rb"^\S+: (?:\S+ ){5} *(\d+) ([^@\n].*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What fdinfo tells of an open file: the flags of open(2), and whether the holder locked it."""

    flags: int
    locked: bool

    @property
    def writable(self) -> bool:
        """Whether bytes can be written through it; O_PATH opens nothing."""
        mode = self.flags & os.O_ACCMODE
        return mode in (os.O_WRONLY, os.O_RDWR) and not self.flags & os.O_PATH


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapped file, as a line of maps has it; `range` as the names in map_files are written."""

    range: bytes
    writable: bool
    shared: bool
    device: str
    path: bytes


def processes() -> list[int]:
    """Return the ids of all processes in this pid namespace."""
    return [int(name) for name in os.listdir(b"/proc") if name.isdigit()]


def threads(pid: int) -> list[int]:
    """Return the thread ids of a process. Each has a /proc/TID of its own, though unlisted."""
    return [int(name) for name in os.listdir(b"/proc/%d/task" % pid)]


def distinct_threads(pid: int) -> list[int]:
    """Return threads of a process that are not alike: as many as have a cwd or files of their own.

    The first thread of a process may have ended before the others, and then has neither.
    """
    if os.stat(b"/proc/%d/task" % pid).st_nlink == _LINKS_OF_ONE:
        return [pid]
    found: list[int] = []
    for thread in threads(pid):
        with suppress(*GONE):
            if not any(_alike(thread, other) for other in found):
                found.append(thread)
    return found


def _alike(one: int, other: int) -> bool:
    return shares(one, other, KCMP_FS) and shares(one, other, KCMP_FILES)


def threads_named(name: bytes) -> set[int]:
    """Return the ids of the threads of this process with that name; it has 15 bytes at most."""
    found = set()
    for thread in threads(os.getpid()):
        with suppress(*GONE):
            if read(b"/proc/self/task/%d/comm" % thread).rstrip(b"\n") == name:
                found.add(thread)
    return found


def is_thread(thread: int) -> bool:
    """Tell whether a thread of this process has not ended yet."""
    return os.path.exists(b"/proc/self/task/%d" % thread)


def is_asleep(thread: int) -> bool:
    """Tell whether a thread of this process waits for something to happen, or has ended."""
    try:
        return read(b"/proc/self/task/%d/stat" % thread).rpartition(b") ")[2][:1] == b"S"
    except GONE:
        return True


def has_ended(pid: int) -> bool:
    """Tell whether a process is a zombie: it has ended, and nobody has asked how."""
    return read(b"/proc/%d/stat" % pid).rpartition(b") ")[2][:1] in (b"Z", b"X")


def mount_of(path: bytes) -> int:
    """Return the id of the mount that a link in /proc leads to.

    It asks no file system, as far as that can be had: one whose server died, or a FUSE mount that
    keeps root out, refuses statx(2), but has nothing to say about O_PATH.
    """
    try:
        return mount_id(path)
    except (FileNotFoundError, ProcessLookupError):
        raise
    except OSError:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            return int(_field(read(b"/proc/self/fdinfo/%d" % opened), b"mnt_id:\t"))
        finally:
            os.close(opened)


def link(path: bytes) -> bytes | None:
    """Return where a link in /proc leads, or None where that is longer than the kernel can tell.

    What was removed has " (deleted)" at its end, as the kernel shows it: it cannot be told from a
    name that ends so.
    """
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return None


def socket_inode(target: bytes | None) -> int | None:
    """Return the inode number of the socket that the link of a descriptor names, if it does."""
    found = _SOCKET.fullmatch(target or b"")
    return int(found[1]) if found else None


def read(path: bytes) -> bytes:
    """Return all of a file in /proc."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(opened, _PIECE):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(opened)


def namespace(thread: int) -> int:
    """Return the inode number of the mount namespace that a thread is in."""
    return os.stat(b"/proc/%d/ns/mnt" % thread).st_ino


def descriptor(tid: int, name: bytes) -> Descriptor:
    """Return what fdinfo tells of the descriptor `name` (proc_pid_fdinfo(5))."""
    content = read(b"/proc/%d/fdinfo/%s" % (tid, name))
    return Descriptor(int(_field(content, b"flags:\t"), 8), _LOCK.search(content) is not None)


def watches(tid: int, name: bytes, device: str) -> bool:
    """Whether the inotify instance `name` watches anything on the superblock `device`."""
    major, minor = map(int, device.split(":"))
    # The kernel's own encoding of a device number: 12 bits, 20 bits.
    wanted = b" sdev:%x " % (major << 20 | minor)
    content = read(b"/proc/%d/fdinfo/%s" % (tid, name))
    return any(line.startswith(b"inotify ") and wanted in line for line in content.split(b"\n"))


def mappings(content: bytes) -> Iterator[Mapping]:
    """Yield the mapped files that the text of a maps file lists (proc_pid_maps(5))."""
    for line in content.split(b"\n"):
        fields = line.split(None, 5)
        if len(fields) < 6 or not fields[5].startswith(b"/"):
            continue  # anonymous memory, the stack, the heap
        bounds, perms, _, device, _, path = fields
        yield Mapping(
            range=b"-".join(b"%x" % int(bound, 16) for bound in bounds.split(b"-")),
            writable=perms[1:2] == b"w",
            shared=perms[3:4] == b"s",
            device=":".join(str(int(number, 16)) for number in device.split(b":")),
            path=path.replace(b"\\012", b"\n"),
        )


def bound_sockets(tid: int) -> dict[int, bytes]:
    """Return the paths of Unix sockets in a thread's network namespace, by the sockets' inodes.

    A path is what bind(2) was given: it may be relative. A connection accepted at it has it too.
    Abstract names are left out; of a path with a newline the rest is missing.
    """
    content = read(b"/proc/%d/net/unix" % tid)
    return {int(inode): path for inode, path in _BOUND.findall(content)}


def command(pid: int) -> str:
    """Return what a process runs, on one short line."""
    words = read(b"/proc/%d/cmdline" % pid).rstrip(b"\0") or read(b"/proc/%d/comm" % pid).rstrip()
    text = words.replace(b"\0", b" ").decode("utf-8", "replace")
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line if len(line) <= _COMMAND_LENGTH else line[: _COMMAND_LENGTH - 1] + "…"


def user(pid: int) -> str:
    """Return the name of a process's effective user, or the number where it has no name."""
    # The owner of /proc/PID will not do: that is root's for a process that may not be dumped.
    uid = int(_field(read(b"/proc/%d/status" % pid), b"\nUid:\t").split(b"\t")[1])
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _field(content: bytes, key: bytes) -> bytes:
    return content.partition(key)[2].partition(b"\n")[0]
