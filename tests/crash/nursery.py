"""Daemons by fork: a process that has imported everything once, and forks a daemon on request.

A daemon that starts by itself takes 0.4 s, nearly all of it imports, and the crash tests start
some thousand of them.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_WITHIN = 20.0
_BYTES = 1 << 16


class Nursery:
    """The process that forks; it ends with the context, its daemons do not."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                cwd=Path(__file__).parents[2],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait(_WITHIN)

    def start(self, environ: Mapping[str, str], orders: Path, way: str) -> dict[str, Any] | None:
        """Start a daemon and return what it said of its start; None if it died without a word."""
        read_end, write_end = os.pipe()
        with open(read_end, "rb", buffering=0) as pipe:
            try:
                request = {"environ": dict(environ), "orders": str(orders), "way": way}
                socket.send_fds(self._socket, [json.dumps(request).encode()], [write_end])
            finally:
                os.close(write_end)
            said = b"".join(iter(lambda: _read(pipe.fileno()), b""))
        verdict: dict[str, Any] | None = json.loads(said) if said else None
        return verdict


def _read(fd: int) -> bytes:
    if not select.select([fd], [], [], _WITHIN)[0]:
        raise TimeoutError(f"not within {_WITHIN} s: the start of a daemon")
    return os.read(fd, _BYTES)


def _serve(requests: socket.socket) -> None:
    for late in ("anyio._backends._asyncio", "envstack.stackfile.reader"):
        import_module(late)  # envstack and anyio do so when they first need it
    from tests.crash import daemon

    while True:
        request, (*fds,), _flags, _address = socket.recv_fds(requests, _BYTES, 1)
        if not request:
            return
        child = os.fork()
        if child == 0:
            requests.close()
            asked = json.loads(request)
            os._exit(daemon.run(asked["environ"], fds[0], Path(asked["orders"]), asked["way"]))
        os.close(fds[0])
        os.waitpid(child, 0)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        _serve(inherited)
