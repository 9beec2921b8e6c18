"""Who is at the other end of a Unix socket, and where: credentials, mount namespace, age."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as the kernel vouches for it. `pid` is 0 when it is in no pid namespace of ours."""

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """Return who made the other end of `connection` (`SO_PEERCRED`, unix(7)); raises OSError."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _gid = _UCRED.unpack(raw)
    return Peer(pid, uid)


def mount_namespace() -> int:
    """Return the number of this process's mount namespace (namespaces(7)); raises OSError."""
    return os.stat("/proc/self/ns/mnt").st_ino


def age(protocol: int, version: str) -> tuple[int, ...]:
    """Return a value that orders programs by protocol, then by the release part of `version`."""
    release = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        release.append(int(part))
    return (protocol, *release)
