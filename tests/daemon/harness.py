"""Daemons of the fake service for one test, and a client that says just what it is told to."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from envstack import client
from envstack.rpc.places import places
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from envstack.rpc.places import Places

COMMAND = (sys.executable, "-m", "tests.daemon.fake")
WITHIN = 20.0
HELLO = {"jsonrpc": "2.0", "id": 0, "method": "hello"}


class Raw:
    """A connection on which any bytes can be said."""

    def __init__(self, path: bytes) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(WITHIN)
        self._socket.connect(path)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def say(self, **message: object) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def ask(self, request_id: int | str, method: str, **params: object) -> None:
        self.say(id=request_id, method=method, params=params)

    def greet(self, protocol: object = 1, version: object = "99") -> dict[str, Any]:
        self.ask(0, "hello", protocol=protocol, version=version)
        return self.hear()

    def hear(self) -> dict[str, Any]:
        line = self._file.readline()
        assert line, "the daemon closed the connection"
        message: dict[str, Any] = json.loads(line)
        return message

    def hears_the_end(self) -> bool:
        try:
            return self._file.readline() == b""
        except ConnectionResetError:
            return True


class FakeDaemon:
    """The daemon of one home; started on demand, and ended with the context."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("ENVSTACK_HOME", str(home))
        self.configure(**settings)
        self.places: Places = places(os.environ, os.getuid())

    def configure(self, **settings: object) -> None:
        """Settle what the next daemon is like."""
        self._monkeypatch.setenv("FAKE_DAEMON", json.dumps(settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.holds_lock():
            waiting.kill(self.lock_owner(), signal.SIGKILL, "the daemon")

    def start(self) -> client.Client:
        return client.connect_or_start(self.places, COMMAND)

    def connect(self) -> client.Client:
        return client.connect(self.places, COMMAND)

    def raw(self) -> Raw:
        """Start the daemon if need be, and say nothing yet."""
        with self.start():
            return Raw(self.places.socket)

    def greeted(self) -> Raw:
        raw = self.raw()
        raw.greet()
        return raw

    def holds_lock(self) -> bool:
        if not os.path.exists(self.places.lock):
            return False
        with open(self.places.lock, "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def lock_owner(self) -> int:
        with open(self.places.lock) as lock:
            return int(lock.read())

    def log(self) -> str:
        with open(self.places.log) as log:
            return log.read()

    def wait_until_it_listens(self) -> None:
        waiting.until(self._listens, "a daemon that listens", WITHIN)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.places.socket)
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    @contextmanager
    def ends(self, within: float = WITHIN) -> Iterator[int]:
        """Yield the pid of the daemon that runs, and then wait until it has ended."""
        pid = self.lock_owner()
        pidfd = os.pidfd_open(pid)
        try:
            yield pid
            waiting.exited(pidfd, f"daemon {pid}", within)
        finally:
            os.close(pidfd)
