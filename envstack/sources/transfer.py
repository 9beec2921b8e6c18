"""One request to an http(s) address: by the user's proxies, redirects watched, in a thread.

What becomes of the bytes, and of a request that failed, is for `fetching`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import urllib.error
import urllib.request
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TIMEOUT = 30.0
"""Seconds in which a server must say something."""
_POLL = 0.05
"""Seconds in which it is noticed that nobody waits any more."""
_PIECE = 1 << 18

Came = http.client.HTTPResponse | bytes | Exception


class RefusedError(Exception):
    """A redirect that is not followed; the argument says why."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            fp.close()
            raise RefusedError(f"it redirects from {req.type} to {scheme}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Proxies(urllib.request.ProxyHandler):
    """Goes by the variables of whoever asks, not by those of this process."""

    def __init__(self, environ: Mapping[bytes, bytes]) -> None:
        found = {kind: _proxy(environ, kind) for kind in ("http", "https")}
        super().__init__({kind: where for kind, where in found.items() if where})
        self._direct = [name.strip() for name in _proxy(environ, "no").lower().split(",")]

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:  # noqa: A002
        host = "." + (urlsplit(req.full_url).hostname or "")
        for name in self._direct:
            if name == "*" or (name and host.endswith("." + name.lstrip("."))):
                return None
        return super().proxy_open(req, proxy, type)


def _proxy(environ: Mapping[bytes, bytes], kind: str) -> str:
    name = f"{kind}_proxy"
    return os.fsdecode(environ.get(name.encode()) or environ.get(name.upper().encode()) or b"")


def opener_of(environ: Mapping[bytes, bytes]) -> urllib.request.OpenerDirector:
    """Return what opens addresses of http and https alone, by the proxies that `environ` names."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Proxies(environ),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


class Transfer:
    """One request in a thread of its own, so that a silent server holds up nobody who gives up.

    Leaving the context ends it: at once if the server has answered, else when its time is over.
    """

    def __init__(
        self, opener: urllib.request.OpenerDirector, request: urllib.request.Request
    ) -> None:
        self._opener = opener
        self._request = request
        self._came: Queue[Came | None] = Queue(maxsize=8)
        self._is_over = Event()
        self._connection: socket.socket | None = None
        self._thread = Thread(target=self._run, daemon=True, name="envstack-fetch")

    def __enter__(self) -> Transfer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._connection is not None:
            with self._connection, contextlib.suppress(OSError):  # the other side has hung up
                self._connection.shutdown(socket.SHUT_RDWR)
            self._thread.join()

    def came(self) -> Iterator[Came]:
        """Yield the answer, then its bytes as they come; or an error, which is the last.

        While nothing comes, no bytes are yielded, several times a second.
        """
        while True:
            try:
                came = self._came.get(timeout=_POLL)
            except Empty:
                yield b""
                continue
            if came is None:
                return
            yield came

    def _run(self) -> None:
        try:
            with self._opener.open(self._request, timeout=_TIMEOUT) as answer:
                if not answer.isclosed():  # as it is if there are no bytes to come
                    self._connection = socket.socket(fileno=os.dup(answer.fileno()))
                self._hand_over(answer)
                while not self._is_over.is_set() and (piece := answer.read1(_PIECE)):
                    self._hand_over(piece)
            self._hand_over(None)
        except urllib.error.HTTPError as error:
            error.close()
            self._hand_over(error)
        except Exception as error:  # whatever it is, the one who waits must hear of it
            self._hand_over(error)

    def _hand_over(self, what: Came | None) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(Full):
                self._came.put(what, timeout=_POLL)
                return
