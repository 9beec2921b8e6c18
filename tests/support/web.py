"""A web server in this process that serves what a test lays down, and fails as it is told to."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import ssl


@dataclass(slots=True)
class Page:
    """What one path answers.

    `cuts` are numbers of bytes after which the connection is closed, one a request, in turn.
    `statuses` are answered in turn before anything else. With `gate`, nothing is sent after the
    headers until it is set.
    """

    data: bytes = b""
    location: str = ""
    version: str = '"one"'
    has_ranges: bool = True
    has_length: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    gate: threading.Event | None = None


class Web:
    """A context manager; `pages` are by path, `asked` what was asked for, with its Range."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str]] = []
        self.is_answering = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for page in self.pages.values():
            if page.gate:
                page.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def lay(self, path: str, data: bytes = b"", **how: Any) -> str:
        """Serve it from now on, and return its address."""
        self.pages[path] = Page(data, **how)
        return self.url + path

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.serve(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        asked = request.headers.get("Range", "")
        # To a proxy the whole address is named.
        path = request.path.removeprefix(self.url)
        self.asked.append((path, asked))
        page = self.pages.get(path)
        if page is None:
            request.send_error(404)
            return
        if page.statuses:
            request.send_error(page.statuses.pop(0))
            return
        if page.location:
            request.send_response(302)
            request.send_header("Location", page.location)
            request.end_headers()
            return
        self._send(request, page, asked)

    def _send(self, request: BaseHTTPRequestHandler, page: Page, asked: str) -> None:
        start = 0
        is_same = request.headers.get("If-Range", page.version) == page.version
        if asked and page.has_ranges and is_same:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            request.send_response(206)
            size = len(page.data)
            request.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        else:
            request.send_response(200)
        if page.version:
            request.send_header("ETag", page.version)
        rest = page.data[start:]
        if page.has_length:
            request.send_header("Content-Length", str(len(rest)))
        request.end_headers()
        self.is_answering.set()
        if page.gate:
            page.gate.wait(30)
        try:
            request.wfile.write(rest[: page.cuts.pop(0)] if page.cuts else rest)
        except OSError:
            return  # who asked is gone
