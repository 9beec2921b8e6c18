"""Where the daemon's home, socket, lock and log are: a pure function of environment variables.

Client and daemon both ask here, so that they agree without talking. Nothing is looked up on disk
and nothing is made; the daemon makes the directories and checks whose they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET_PATH_MAX = 107
"""Bytes that `sun_path` holds besides its final NUL, unix(7)."""


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute paths: the store's directory, and the daemon's socket, lock and log."""

    home: bytes
    socket: bytes
    lock: bytes
    log: bytes


def places(environ: Mapping[str, str], uid: int) -> Places:
    """Return the places of user `uid` under these environment variables.

    Variables as in the XDG base directory specification 0.8: an empty one counts as unset, and a
    relative path in an `XDG_` one as well. Raises UsageError where `ENVSTACK_HOME` is relative, or
    where nothing says what the home directory is.
    """
    chosen = environ.get("ENVSTACK_HOME", "")
    if chosen and not os.path.isabs(chosen):
        raise UsageError(
            f"ENVSTACK_HOME is not an absolute path: {chosen!r}", "export ENVSTACK_HOME=/…"
        )
    home = os.fsencode(chosen) if chosen else os.path.join(_data_home(environ), b"envstack")
    runtime = _runtime_directory(environ, uid)
    directory = home if chosen or runtime is None else runtime
    return Places(
        home=home,
        socket=_socket(directory, runtime, uid),
        lock=os.path.join(directory, b"daemon.lock"),
        log=os.path.join(home, b"daemon.log"),
    )


def _absolute(environ: Mapping[str, str], name: str) -> bytes | None:
    value = environ.get(name, "")
    return os.fsencode(value) if os.path.isabs(value) else None


def _data_home(environ: Mapping[str, str]) -> bytes:
    data_home = _absolute(environ, "XDG_DATA_HOME")
    if data_home is not None:
        return data_home
    user_home = _absolute(environ, "HOME")
    if user_home is None:
        raise UsageError(
            "neither ENVSTACK_HOME nor XDG_DATA_HOME nor HOME names a directory",
            "set ENVSTACK_HOME to the directory where layers are to be kept",
        )
    return os.path.join(user_home, b".local", b"share")


def config_file(environ: Mapping[str, str]) -> bytes | None:
    """Return where the user's limits are; None where no variable says where that would be."""
    directory = _absolute(environ, "XDG_CONFIG_HOME")
    user_home = _absolute(environ, "HOME")
    if directory is None and user_home is not None:
        directory = os.path.join(user_home, b".config")
    return None if directory is None else os.path.join(directory, b"envstack", b"config.yaml")


def _runtime_directory(environ: Mapping[str, str], uid: int) -> bytes | None:
    runtime = _absolute(environ, "XDG_RUNTIME_DIR")
    if runtime is not None:
        return os.path.join(runtime, b"envstack")
    return b"/run/envstack" if uid == 0 else None


def _socket(directory: bytes, runtime: bytes | None, uid: int) -> bytes:
    """Return the socket's path: in `directory`, or a short one that stands for it."""
    path = os.path.join(directory, b"daemon.sock")
    if len(path) <= SOCKET_PATH_MAX:
        return path
    # Rarely needed, and the start-up of every command would pay for the import.
    from hashlib import sha256

    name = sha256(directory).hexdigest()[:16].encode() + b".sock"
    if runtime is not None and len(runtime) + 1 + len(name) <= SOCKET_PATH_MAX:
        return os.path.join(runtime, name)
    # The daemon refuses this directory unless it is the user's own and closed to others.
    return b"/tmp/envstack-%d/%s" % (uid, name)
