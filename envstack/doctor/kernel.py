"""The mount calls that envstack is made of, each tried for real on a tmpfs of the child's own.

What a call is good for is said in `overlay.mount`; here each is tried as it is used there, and what
it is to bring about is looked at, because a call can be there and do something else.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.doctor.check import Check, State, missing, ok
from envstack.doctor.child import enter_mount_namespace, enter_user_namespace
from envstack.linux import syscalls as sys
from envstack.linux.mountinfo import read_mounts
from envstack.overlay import mount as overlay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.doctor.child import Outcomes, Trials

NAMESPACE = "mount namespace"
_LAYERS = "lowerdir+"
_CLASSIC = "overlay by mount(2)"
_BENEATH = "mount beneath"
_LOCK = "read-only mount"
_SUPERBLOCK = "read-only superblock"
_IDS = "mount ids"
_USER = "user namespace"
_USER_OVERLAY = "overlay of a user"

_NEWER = "needs a newer kernel: Linux {}"
_IN_CONTAINER = (
    "in a container, allow mounting: --privileged, or --cap-add SYS_ADMIN with "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined"
)


@dataclass(frozen=True, slots=True)
class _Call:
    """What follows where the trial of that name did not work."""

    name: str
    without: State
    hint: str


_CALLS = (
    _Call(_LAYERS, State.LIMITED, _NEWER.format("6.8; mount(2) serves in its place")),
    _Call(_CLASSIC, State.LIMITED, "only older kernels need it"),
    _Call(_BENEATH, State.LIMITED, _NEWER.format("6.5; without it a swap leaves a short gap")),
    _Call(_LOCK, State.MISSING, _NEWER.format("5.12")),
    _Call(_SUPERBLOCK, State.MISSING, _NEWER.format("5.10")),
    _Call(_IDS, State.MISSING, _NEWER.format("5.8")),
)


def trials() -> Trials:
    """Return what is to be tried in one child, in this order."""
    return {
        NAMESPACE: _tmpfs,
        _LAYERS: _layer_by_layer,
        _CLASSIC: _by_mount,
        _BENEATH: _beneath,
        _LOCK: _lock,
        _SUPERBLOCK: _lock_superblock,
        _IDS: _mount_ids,
    }


def user_trials() -> Trials:
    """Return what is to be tried in another child, as an ordinary user."""
    return {_USER: _user_namespace, _USER_OVERLAY: _layer_by_layer}


def checks(found: Outcomes) -> Iterator[Check]:
    """Yield what the outcomes of `trials` mean."""
    yield ok("kernel", f"Linux {os.uname().release}")
    namespace = found.get(NAMESPACE)
    if namespace is None or not namespace.worked:
        said = "the trial was ended" if namespace is None else namespace.said
        yield missing(NAMESPACE, said, _IN_CONTAINER)
        return
    yield _overlay(found)
    yield from (_judged(call, found) for call in _CALLS)


def user_checks(found: Outcomes) -> Iterator[Check]:
    """Yield what the outcomes of `user_trials` mean."""
    yield _judged(_Call(_USER, State.LIMITED, _users_hint()), found)
    if found.get(_USER) is not None and found[_USER].worked:
        yield _judged(_Call(_USER_OVERLAY, State.LIMITED, _NEWER.format("5.11")), found)


def _overlay(found: Outcomes) -> Check:
    ways = [found[way] for way in (_LAYERS, _CLASSIC) if way in found]
    if any(way.worked for way in ways):
        return ok("overlay", "overlays can be mounted")
    said = ways[0].said if ways else "the trial was ended"
    return missing("overlay", said, "modprobe overlay, on the host if this is a container")


def _judged(call: _Call, found: Outcomes) -> Check:
    outcome = found.get(call.name)
    if outcome is not None and outcome.worked:
        return ok(call.name, outcome.said)
    said = "the trial was ended" if outcome is None else outcome.said
    return Check(call.name, call.without, said, call.hint)


def _users_hint() -> str:
    """Return which setting keeps ordinary users from a namespace (user_namespaces(7))."""
    for path, forbidding in (
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("user/max_user_namespaces", "0"),
    ):
        if setting(path) == forbidding:
            allowing = {"0": "1", "1": "0"}[forbidding] if "max" not in path else "10000"
            return f"sysctl {path.replace('/', '.')}={allowing}; only use without root needs it"
    return "only use without root needs it"


def setting(path: str) -> str | None:
    """Return the value of a file below /proc/sys, None where there is none to read."""
    try:
        with open(f"/proc/sys/{path}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _tmpfs() -> str:
    """Enter a namespace, and a fresh tmpfs with directories for the trials after it.

    It is attached over `/`, which is always there; paths that do not begin with one lead to it.
    """
    enter_mount_namespace()
    _enter_tmpfs()
    return "of its own, with a tmpfs"


def _user_namespace() -> str:
    enter_user_namespace()
    sys.set_propagation(b"/", sys.MS_REC | sys.MS_PRIVATE)
    _enter_tmpfs()
    return "ordinary users may make one"


def _enter_tmpfs() -> None:
    context = sys.fsopen(b"tmpfs")
    sys.fsconfig_create(context)
    mount = sys.fsmount(context, 0)
    overlay.attach(mount, b"/")
    os.fchdir(mount)
    for name in ("lower", "merged", "upper1", "work1", "upper2", "work2", "upper3", "work3"):
        os.mkdir(name)


def mounted(number: int) -> int:
    """Return a descriptor of a detached overlay on the numbered upper, below the current directory.

    By whichever way there is. Raises OSError.
    """
    try:
        return _mounted(number, b"lowerdir+")
    except OSError:
        return _mounted(number, b"lowerdir")


def _mounted(number: int, key_of_lower: bytes) -> int:
    """Do so with the marks that this process may write."""
    context = sys.fsopen(b"overlay")
    try:
        for key, value in (
            (key_of_lower, b"lower"),
            (b"upperdir", b"upper%d" % number),
            (b"workdir", b"work%d" % number),
            (b"index", b"off"),
        ):
            sys.fsconfig_string(context, key, value)
        if not _is_initial_root():
            sys.fsconfig_flag(context, b"userxattr")
        sys.fsconfig_create(context)
        return sys.fsmount(context, 0)
    finally:
        os.close(context)


def _is_initial_root() -> bool:
    """Whether this process may write trusted attributes: root, and not of a user namespace."""
    with open("/proc/self/uid_map", "rb") as file:
        return file.read().split() == [b"0", b"0", b"4294967295"]


def _layer_by_layer() -> str:
    overlay.attach(_mounted(1, b"lowerdir+"), b"merged")
    _write(b"merged/file")
    _expect(os.path.exists(b"upper1/file"), "what was written is not in the upper")
    return "overlays of one layer after another"


def _by_mount() -> str:
    options = b"lowerdir=lower,upperdir=upper3,workdir=work3"
    if not _is_initial_root():
        options += b",userxattr"
    sys.mount(b"overlay", b"merged", b"overlay", 0, options)
    sys.umount(b"merged", sys.MNT_DETACH)
    return "with all layers in one text"


def _beneath() -> str:
    """Exchange the overlay where events of mounting are shared, as on every host with systemd."""
    _attach_first()
    sys.set_propagation(b".", sys.MS_SHARED)
    try:
        top, fresh = overlay.open_mount(b"merged"), mounted(2)
        os.close(os.open(b"upper2/second", os.O_CREAT))
        overlay.attach_beneath(fresh, top)
        overlay.detach(top)
        _expect(os.path.exists(b"merged/second"), "the mount beneath did not appear")
        overlay.detach(fresh)
    finally:
        sys.set_propagation(b".", sys.MS_PRIVATE)
    return "an exchange without a gap"


def _lock() -> str:
    _attach_first()
    mount = overlay.open_mount(b"merged")
    overlay.lock_mount(mount)
    _expect_read_only(b"/proc/self/fd/%d/locked" % mount)
    overlay.unlock_mount(mount)
    return "one mount can be locked"


def _lock_superblock() -> str:
    _attach_first()
    mount = overlay.open_mount(b"merged")
    overlay.detach(mount)
    overlay.lock_superblock(mount)
    _expect_read_only(b"/proc/self/fd/%d/locked" % mount)
    return "all mounts of an overlay can be locked at once"


def _mount_ids() -> str:
    known = {mount.id for mount in read_mounts()}
    _expect(sys.mount_id(b".") in known, "the id of a mount is not told")
    return "told by statx(2)"


def _attach_first() -> None:
    """Have the first overlay visible, whatever the trials before have left."""
    if os.stat(b"merged").st_dev == os.stat(b".").st_dev:
        overlay.attach(mounted(1), b"merged")


def _write(path: bytes) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise OSError(errno.EPROTO, otherwise)


def _expect_read_only(path: bytes) -> None:
    try:
        _write(path)
    except OSError as error:
        if error.errno == errno.EROFS:
            return
        raise
    raise OSError(errno.EPROTO, "what is locked can be written still")
