"""The file system of the store: whether an upper can lie there, and what it has to offer.

Tried in a directory of its own, which is gone afterwards; a store that is there is not opened. The
directory lies in the store's `staging/`, which a starting daemon sweeps, so that one which a killed
`doctor` leaves is gone then; before there is a store, in the nearest directory above.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import contextmanager, suppress
from itertools import pairwise
from math import gcd
from secrets import token_hex
from typing import TYPE_CHECKING

from envstack.doctor import kernel
from envstack.doctor.check import Check, limited, missing, ok
from envstack.doctor.child import enter_mount_namespace, outcomes
from envstack.linux import syscalls as sys
from envstack.linux.entries import tell_types
from envstack.linux.mountinfo import read_mounts
from envstack.linux.removal import remove
from envstack.overlay import mount as overlay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAME = "store"
_UPPER = "upper on the store"
_ELSEWHERE = "set ENVSTACK_HOME to a directory on ext4, xfs or btrfs"

_TIGHT = 1 << 30
"""Bytes free below which it is said that layers need room."""

_FICLONE = 0x40049409
"""`_IOW(0x94, 9, int)`, ioctl_ficlone(2)."""

_SECOND = 1_000_000_000
_STAMPS_SECONDS = 0.03
_COARSE = 20_000_000
"""Nanoseconds: no kernel's clock tick is longer, so coarser stamps are the file system's doing."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def checks(home: bytes) -> Iterator[Check]:
    """Yield what there is to say of the store at `home`, made or not."""
    base = _nearest(home)
    try:
        place = _described(home, base)
        with _ground(home, base) as ground:
            yield _room(place, base)
            yield from _tried(ground)
    except OSError as error:
        shown = os.fsdecode(home)
        if error.errno in _FULL:
            yield limited(_NAME, f"{shown}: {error.strerror}", "make room, or set ENVSTACK_HOME")
        else:
            yield missing(_NAME, f"{shown}: {error.strerror}", _ELSEWHERE)


def _nearest(home: bytes) -> bytes:
    """Return the directory that is there already: the store itself, or one above."""
    path = home
    while not os.path.lexists(path) and path != b"/":
        path = os.path.dirname(path)
    return path


def _described(home: bytes, base: bytes) -> str:
    made = "" if base == home else " (not made yet)"
    number = sys.mount_id(base)
    kinds = [mount.fstype for mount in read_mounts() if mount.id == number]
    return f"{os.fsdecode(home)}{made} on {kinds[0] if kinds else 'an unknown file system'}"


@contextmanager
def _ground(home: bytes, base: bytes) -> Iterator[bytes]:
    """Make a directory for the trials, and delete it."""
    staging = os.path.join(home, b"staging")
    parent = staging if os.path.isdir(staging) else base
    ground = os.path.join(parent, b".envstack-doctor-" + token_hex(4).encode())
    os.mkdir(ground, 0o700)
    try:
        yield ground
    finally:
        with suppress(FileNotFoundError):
            # Of mode 0000 by the kernel: its owner could not look into it.
            os.chmod(os.path.join(ground, b"work1", b"work"), 0o700)
        remove(ground)


def _room(place: str, base: bytes) -> Check:
    space = os.statvfs(base)
    free = space.f_bavail * space.f_frsize
    if not space.f_blocks:
        return ok(_NAME, place)
    found = f"{place}, {_bytes(free)} free"
    if free < _TIGHT:
        return limited(_NAME, found, "make room, or set ENVSTACK_HOME: layers are kept there")
    return ok(_NAME, found)


def _bytes(count: int) -> str:
    return f"{count / (1 << 30):,.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):,.1f} MiB"


def _tried(ground: bytes) -> Iterator[Check]:
    yield _upper(ground)
    for name, check in (
        ("attributes", _attributes),
        ("entry types", _types),
        ("reflink", _reflink),
        ("time stamps", _stamps),
        ("leases", _lease),
    ):
        try:
            yield check(name, ground)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            yield limited(name, f"not tried: {error.strerror}", "make room")


def _upper(ground: bytes) -> Check:
    for name in (b"lower", b"lower/gone", b"merged", b"upper1", b"work1"):
        os.mkdir(os.path.join(ground, name))

    def enter() -> str:
        enter_mount_namespace()
        os.chdir(ground)  # only now: a directory entered before is of the other namespace
        return ""

    found = outcomes({kernel.NAMESPACE: enter, _UPPER: _write_above})
    if not found or not found[kernel.NAMESPACE].worked:
        return limited(_UPPER, "not tried, for want of a mount namespace", "see above")
    outcome = found.get(_UPPER)
    if outcome is not None and outcome.worked:
        return ok(_UPPER, outcome.said)
    said = "the trial was ended" if outcome is None else outcome.said
    return missing(_UPPER, said, _ELSEWHERE)


def _write_above() -> str:
    """Have the kernel leave all of its marks in an upper: a whiteout and an opaque directory."""
    overlay.attach(kernel.mounted(1), b"merged")
    os.rmdir(b"merged/gone")
    if os.path.exists(b"merged/gone") or not os.path.lexists(b"upper1/gone"):
        raise OSError(errno.EPROTO, "a deleted directory left no whiteout")
    os.mkdir(b"merged/gone")
    if not os.listxattr(b"upper1/gone"):
        raise OSError(errno.EPROTO, "a directory made anew is not opaque")
    return "whiteouts and opaque directories"


def _attributes(name: str, ground: bytes) -> Check:
    wanted = ["user.envstack", *(["trusted.envstack"] if os.geteuid() == 0 else [])]
    lacking = []
    for attribute in wanted:
        try:
            os.setxattr(ground, attribute, b"y")
        except OSError as error:
            if error.errno in _FULL:
                raise
            lacking.append(attribute.partition(".")[0])
    if lacking:
        return limited(name, f"no {' and no '.join(lacking)} attributes", _ELSEWHERE)
    return ok(name, " and ".join(attribute.partition(".")[0] for attribute in wanted))


def _types(name: str, ground: bytes) -> Check:
    if tell_types(ground):
        return ok(name, "told by directory listings (d_type)")
    return missing(name, "not told by directory listings", "mkfs.xfs -n ftype=1, or ext4")


def _reflink(name: str, ground: bytes) -> Check:
    with _file(ground, b"original") as original, _file(ground, b"clone") as clone:
        os.write(original, b"x" * 4096)
        try:
            fcntl.ioctl(clone, _FICLONE, original)
        except OSError as error:
            if error.errno in _FULL:
                raise
            hint = "xfs and btrfs have them; only large copies gain by it"
            return limited(name, "no: files are copied in full", hint)
    return ok(name, "large files are copied without their bytes")


def _stamps(name: str, ground: bytes) -> Check:
    with _file(ground, b"stamped") as stamped:
        step = _granularity(lambda: _stamp(stamped))
    if step < _COARSE:
        return ok(name, f"steps of {_duration(step)}")
    return limited(
        name,
        f"steps of {_duration(step)} or more",
        "quick changes of equal size are told by comparing bytes; ext4 with inodes of 256 bytes "
        "has finer ones (mkfs.ext4 -I 256)",
    )


def _stamp(file: int) -> int:
    os.pwrite(file, b"x", 0)
    return os.fstat(file).st_mtime_ns


def _granularity(stamp: Callable[[], int]) -> int:
    """Return the nanoseconds between two neighbouring time stamps, as far as a short look tells.

    That is the smallest difference seen; where there was none, the unit that the one stamp is a
    multiple of, a second at most.
    """
    deadline = time.monotonic() + _STAMPS_SECONDS
    seen = {stamp()}
    while time.monotonic() < deadline:
        seen.add(stamp())
    ordered = sorted(seen)
    steps = [after - before for before, after in pairwise(ordered)]
    return min(steps, default=gcd(*ordered, _SECOND))


def _duration(nanoseconds: int) -> str:
    for size, unit in ((_SECOND, "s"), (1_000_000, "ms"), (1_000, "µs")):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds} ns"


def _lease(name: str, ground: bytes) -> Check:
    with _file(ground, b"leased"):
        pass
    file = os.open(os.path.join(ground, b"leased"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        hint = "the change feed compares more bytes instead"
        return limited(name, error.strerror or "none", hint)
    finally:
        os.close(file)
    return ok(name, "tell whether a file is open for writing")


@contextmanager
def _file(ground: bytes, name: bytes) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    file = os.open(os.path.join(ground, name), flags, 0o600)
    try:
        yield file
    finally:
        os.close(file)
