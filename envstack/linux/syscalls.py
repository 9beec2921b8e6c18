"""The mount system calls that Python's os module lacks, by ctypes.

Owns the calling convention and the constants; knows nothing of overlays, stores or policies. Every
function raises OSError with the call's name and what it acted on. Numbers are those of the generic
table, which every architecture shares for calls added since Linux 5.1 (syscalls(2)).
"""

from __future__ import annotations

import ctypes
import errno
import os

AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_FDCWD = -100

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWUSER = 0x10000000

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7

FSMOUNT_CLOEXEC = 1
FSOPEN_CLOEXEC = 1
FSPICK_CLOEXEC = 1
FSPICK_EMPTY_PATH = 8

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOVE_MOUNT_BENEATH = 0x200

MNT_DETACH = 2
MNT_EXPIRE = 4
UMOUNT_NOFOLLOW = 8

MAX_HANDLE_SZ = 128

MS_NOSUID = 0x02
MS_NODEV = 0x04
MS_NOEXEC = 0x08
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC

AT_STATX_DONT_SYNC = 0x4000
_STATX_MNT_ID_UNIQUE = 0x4000

KCMP_FILES = 2
KCMP_FS = 3

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_FSPICK = 433
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442

_SYS_KCMP = {"x86_64": 312, "ppc64le": 354, "s390x": 343}.get(os.uname().machine, 272)
"""Older than the common numbers; most architectures have it from their generic table."""

_RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_uint8 * MAX_HANDLE_SZ),
    )


class _Statx(ctypes.Structure):
    _fields_ = (
        ("stx_mask", ctypes.c_uint32),
        ("head", ctypes.c_uint8 * (0x90 - 4)),
        ("stx_mnt_id", ctypes.c_uint64),
        ("rest", ctypes.c_uint8 * (256 - 0x98)),
    )


def _check(result: int, what: str) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(number: int, what: str, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), what)


def fsopen(fstype: bytes) -> int:
    """Return a file-system context for `fstype` (fsopen(2), Linux 5.2)."""
    return _syscall(_SYS_FSOPEN, "fsopen", fstype, ctypes.c_uint(FSOPEN_CLOEXEC))


def fspick(descriptor: int) -> int:
    """Return a context to reconfigure the superblock under `descriptor` (fspick(2))."""
    flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH
    return _syscall(_SYS_FSPICK, "fspick", ctypes.c_int(descriptor), b"", ctypes.c_uint(flags))


def _fsconfig(context: int, command: int, key: bytes | None, value: bytes | None) -> None:
    what = f"fsconfig {os.fsdecode(key)}" if key else "fsconfig"
    try:
        _syscall(
            _SYS_FSCONFIG,
            what,
            ctypes.c_int(context),
            ctypes.c_uint(command),
            key,
            value,
            ctypes.c_int(0),
        )
    except OSError as error:
        said = _messages(context)
        if not said:
            raise
        raise OSError(error.errno, f"{error.strerror} ({said})") from error


def _messages(context: int) -> str:
    """Return what the kernel logged on a context: one message a read, ENODATA at the end."""
    lines: list[str] = []
    while True:
        try:
            line = os.read(context, 8192)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            return "; ".join(lines)
        lines.append(line.decode(errors="replace").strip())


def fsconfig_string(context: int, key: bytes, value: bytes) -> None:
    """Set a parameter of a context; a value holds 255 bytes at most (fsconfig(2))."""
    _fsconfig(context, FSCONFIG_SET_STRING, key, value)


def fsconfig_flag(context: int, key: bytes) -> None:
    """Set a parameter that takes no value, such as `ro`."""
    _fsconfig(context, FSCONFIG_SET_FLAG, key, None)


def fsconfig_create(context: int) -> None:
    """Create the superblock that the context describes."""
    _fsconfig(context, FSCONFIG_CMD_CREATE, None, None)


def fsconfig_reconfigure(context: int) -> None:
    """Apply the context's parameters to the superblock that was picked."""
    _fsconfig(context, FSCONFIG_CMD_RECONFIGURE, None, None)


def fsmount(context: int, attributes: int) -> int:
    """Return a descriptor of a detached mount of the context's superblock (fsmount(2))."""
    return _syscall(
        _SYS_FSMOUNT,
        "fsmount",
        ctypes.c_int(context),
        ctypes.c_uint(FSMOUNT_CLOEXEC),
        ctypes.c_uint(attributes),
    )


def open_tree(path: bytes, flags: int = 0, *, dir_fd: int = AT_FDCWD) -> int:
    """Return a descriptor of the mount at `path`; with OPEN_TREE_CLONE, of a detached copy."""
    if not path:
        flags |= AT_EMPTY_PATH
    return _syscall(
        _SYS_OPEN_TREE,
        f"open_tree {os.fsdecode(path)}",
        ctypes.c_int(dir_fd),
        path,
        ctypes.c_uint(flags | OPEN_TREE_CLOEXEC),
    )


def move_mount(mount: int, target: int, flags: int = 0) -> None:
    """Attach the mount under descriptor `mount` at the directory under descriptor `target`."""
    _syscall(
        _SYS_MOVE_MOUNT,
        "move_mount",
        ctypes.c_int(mount),
        b"",
        ctypes.c_int(target),
        b"",
        ctypes.c_uint(flags | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH),
    )


def mount_setattr(
    mount: int, attr_set: int = 0, attr_clr: int = 0, propagation: int = 0, flags: int = 0
) -> None:
    """Change the attributes of one mount (mount_setattr(2), Linux 5.12).

    The root of a detached copy is taken as well; another detached mount is not. With AT_RECURSIVE
    in `flags` all that is mounted on it is meant too.
    """
    attributes = _MountAttr(attr_set=attr_set, attr_clr=attr_clr, propagation=propagation)
    _syscall(
        _SYS_MOUNT_SETATTR,
        "mount_setattr",
        ctypes.c_int(mount),
        b"",
        ctypes.c_uint(AT_EMPTY_PATH | flags),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def openat2(path: bytes, flags: int, resolve: int, *, dir_fd: int) -> int:
    """Open what is there at `path`; RESOLVE_* say what the way must not cross (Linux 5.6).

    ELOOP: it leads through a symbolic link. EXDEV: it leaves `dir_fd`, or the mount.
    """
    how = _OpenHow(flags=flags | os.O_CLOEXEC, resolve=resolve)
    return _syscall(
        _SYS_OPENAT2,
        "openat2",
        ctypes.c_int(dir_fd),
        path,
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )


def umount(path: bytes, flags: int = 0) -> None:
    """Take off the topmost mount at `path` (umount2(2))."""
    _check(_libc.umount2(path, ctypes.c_int(flags)), f"umount {os.fsdecode(path)}")


def set_propagation(path: bytes, flags: int) -> None:
    """Make the mount at `path` MS_PRIVATE, MS_SHARED or MS_SLAVE; with MS_REC, its tree too."""
    _check(
        _libc.mount(None, path, None, ctypes.c_ulong(flags), None),
        f"mount propagation of {os.fsdecode(path)}",
    )


def mount(source: bytes, target: bytes, fstype: bytes, flags: int, options: bytes) -> None:
    """Mount a file system at `target` (mount(2)); `options` hold a page at most."""
    _check(
        _libc.mount(source, target, fstype, ctypes.c_ulong(flags), options),
        f"mount {os.fsdecode(target)}",
    )


def open_in_root(root: int, path: bytes, flags: int) -> int:
    """Open `path` as a process would whose root is the directory under `root` (openat2(2)).

    Symbolic links, absolute ones too, are resolved beneath it. The kernel asks to try again where
    anything was renamed or mounted anywhere while there was a `..` to follow; so it is tried again.
    """
    how = _OpenHow(flags=flags | os.O_CLOEXEC, resolve=_RESOLVE_IN_ROOT)
    while True:
        try:
            return _syscall(
                _SYS_OPENAT2,
                f"openat2 {os.fsdecode(path)}",
                ctypes.c_int(root),
                path,
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
            )
        except BlockingIOError:
            continue


def open_on_mount(descriptor: int, mount: int, flags: int) -> int:
    """Open the directory under `descriptor` anew, on the mount that `mount` was opened on.

    Both are of one file system; `mount` was opened for reading. It goes by the file's handle
    (open_by_handle_at(2)), so it matters neither how the directory is reached nor what covers it.
    Raises OSError EOPNOTSUPP where the file system has no handles.
    """
    handle = _FileHandle(handle_bytes=MAX_HANDLE_SZ)
    found_on = ctypes.c_int()
    _check(
        _libc.name_to_handle_at(
            ctypes.c_int(descriptor),
            b"",
            ctypes.byref(handle),
            ctypes.byref(found_on),
            ctypes.c_int(AT_EMPTY_PATH),
        ),
        "name_to_handle_at",
    )
    return _check(
        _libc.open_by_handle_at(
            ctypes.c_int(mount), ctypes.byref(handle), ctypes.c_int(flags | os.O_CLOEXEC)
        ),
        "open_by_handle_at",
    )


def mount_proc(path: bytes) -> None:
    """Mount at `path` what proc(5) shows of the caller's pid namespace."""
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    _check(
        _libc.mount(b"proc", path, b"proc", ctypes.c_ulong(flags), None),
        f"mount proc at {os.fsdecode(path)}",
    )


def syncfs(descriptor: int) -> None:
    """Write out all of the file system that `descriptor` is on (syncfs(2))."""
    _check(_libc.syncfs(ctypes.c_int(descriptor)), "syncfs")


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces (unshare(2)); os.unshare came with 3.12."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def set_dumpable() -> None:
    """Give this process its own /proc/self again after it became another user (prctl(2))."""
    _check(_libc.prctl(ctypes.c_int(_PR_SET_DUMPABLE), ctypes.c_ulong(1), 0, 0, 0), "prctl")


def setns(descriptor: int, flags: int) -> None:
    """Move the calling thread into namespaces of the process that a pidfd names (Linux 5.8).

    `flags` says which: with CLONE_NEWNS, root and cwd become the root of that mount namespace; with
    CLONE_NEWPID, children to come are meant. os.setns came with Python 3.12.
    """
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(flags)), "setns")


def set_death_signal(number: int) -> None:
    """Let the kernel send this process the signal when its parent ends (PR_SET_PDEATHSIG)."""
    _check(
        _libc.prctl(ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(number)),
        "prctl PR_SET_PDEATHSIG",
    )


def set_child_subreaper() -> None:
    """Have orphaned descendants become children of this process (PR_SET_CHILD_SUBREAPER)."""
    _check(
        _libc.prctl(ctypes.c_int(_PR_SET_CHILD_SUBREAPER), ctypes.c_ulong(1), 0, 0, 0),
        "prctl PR_SET_CHILD_SUBREAPER",
    )


def mount_id(path: bytes, *, dir_fd: int = AT_FDCWD) -> int:
    """Return the id of the mount that `path` lies on, as mountinfo has it (statx(2), Linux 5.8).

    An empty `path` means the file under `dir_fd`; a last symbolic link is followed. No file system
    is asked anything: the kernel tells the mount id whatever the mask, and a FUSE server refuses
    other users but for an empty one.
    """
    buffer = _Statx()
    flags = AT_STATX_DONT_SYNC if path else AT_STATX_DONT_SYNC | AT_EMPTY_PATH
    # Plain numbers: called for every descriptor of every process, it must not convert them.
    if _libc.statx(dir_fd, path, flags, 0, ctypes.byref(buffer)) == -1:
        _check(-1, f"statx {os.fsdecode(path)}")
    return int(buffer.stx_mnt_id)


def unique_mount_id(path: bytes) -> int | None:
    """Return the id of the mount that `path` lies on which no other mount ever has (Linux 6.8).

    A later mount has a greater one. None on an older kernel.
    """
    buffer = _Statx()
    flags, mask = AT_STATX_DONT_SYNC, _STATX_MNT_ID_UNIQUE
    if _libc.statx(AT_FDCWD, path, flags, mask, ctypes.byref(buffer)) == -1:
        _check(-1, f"statx {os.fsdecode(path)}")
    return int(buffer.stx_mnt_id) if buffer.stx_mask & mask else None


def shares(one: int, other: int, what: int) -> bool:
    """Tell whether two threads have one KCMP_FS or one KCMP_FILES (kcmp(2)).

    False where a kernel without kcmp(2) or a security module does not tell. Raises OSError ESRCH.
    """
    found = _libc.syscall(_SYS_KCMP, one, other, what, 0, 0)
    if found == -1 and ctypes.get_errno() == errno.ESRCH:
        _check(-1, f"kcmp {one} {other}")
    return bool(found == 0)
