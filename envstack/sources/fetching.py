"""What an http(s) address serves, as the bytes of a file; interrupted, it is taken up again.

Whether the bytes are the right ones is for others to see.
"""

from __future__ import annotations

import http.client
import os
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack import __version__
from envstack.errors import EnvstackError, NotFound, TooLarge
from envstack.sources.transfer import RefusedError, Transfer, opener_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ATTEMPTS = 4
"""Answers in a row that bring nothing new, before it is given up."""
_PAUSE = 0.5
"""Seconds before an address is asked again, times the attempts."""
_POLL = 0.05
"""Seconds in which Ctrl-C is noticed."""
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
"""Statuses that may be others a moment later (RFC 9110)."""
_PARTIAL, _GONE, _OUT_OF_RANGE = 206, {404, 410}, 416


@contextmanager
def fetched(
    address: str,
    folder: bytes,
    environ: Mapping[bytes, bytes],
    most: int,
    tell: Callable[[str], None],
) -> Iterator[int]:
    """Yield a descriptor of a file with what `address` serves.

    It lies on the file system of `folder`, without a name, and is gone at the end. It has `most`
    bytes at the most. `environ` may name proxies, as curl(1) and Python read them. `tell` is told
    how far it is and may raise to end it. Raises NotFound, TooLarge, EnvstackError for what else a
    server or the network does, and OSError where it cannot be written.
    """
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        _Fetch(address, file.fileno(), opener_of(environ), most, tell).run()
        yield file.fileno()


class _InterruptedError(Exception):
    """It did not come to its end, and may another time; the argument says why."""


@dataclass(slots=True)
class _Fetch:
    """One file being filled: `got` bytes of it are there, of the version that `version` names."""

    address: str
    file: int
    opener: urllib.request.OpenerDirector
    most: int
    tell: Callable[[str], None]
    got: int = 0
    version: str = ""

    def run(self) -> None:
        failures = 0
        while True:
            before = self.got
            try:
                self._try()
            except _InterruptedError as error:
                failures = 1 if self.got > before else failures + 1
                if failures == _ATTEMPTS:
                    raise self._failed(str(error)) from error
                self._wait(failures * _PAUSE)
            else:
                return

    def _try(self) -> None:
        """Ask for what is missing, and write what comes."""
        headers = {"User-Agent": f"envstack/{__version__}"}
        if self.got:
            headers["Range"] = f"bytes={self.got}-"
            if self.version:
                headers["If-Range"] = self.version
        request = urllib.request.Request(self.address, headers=headers)  # noqa: S310 (see opener_of)
        with Transfer(self.opener, request) as transfer:
            total = None
            for came in transfer.came():
                self._tell(total)
                if isinstance(came, bytes):
                    self._write(came)
                elif isinstance(came, Exception):
                    raise self._meaning(came) from came
                else:
                    total = self._begin(came)
        self._tell(total)
        if total is not None and self.got < total:
            raise _InterruptedError(f"it ended after {self.got:,} of {total:,} bytes")

    def _begin(self, answer: http.client.HTTPResponse) -> int | None:
        """Start anew unless the answer goes on where the file ends; return how long it will be."""
        if answer.status == _PARTIAL and self.got:
            start, _, total = (
                answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            )
            if start.partition("-")[0] != str(self.got):
                self._clear()
                raise _InterruptedError("it answers with another part than was asked for")
            return int(total) if total.isdigit() else None
        self._clear()
        version = answer.headers.get("ETag", "")
        # A weak ETag is of no use for this (RFC 9110, 13.1.5).
        is_strong = version and not version.startswith("W/")
        self.version = version if is_strong else answer.headers.get("Last-Modified", "")
        length = answer.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > self.most:
            raise self._too_large()
        return int(length) if length.isdigit() else None

    def _clear(self) -> None:
        os.ftruncate(self.file, 0)
        self.got, self.version = 0, ""

    def _write(self, piece: bytes) -> None:
        if self.got + len(piece) > self.most:
            raise self._too_large()
        while piece:
            written = os.pwrite(self.file, piece, self.got)
            self.got += written
            piece = piece[written:]

    def _meaning(self, error: Exception) -> Exception:
        """Return what an error of the library stands for."""
        if isinstance(error, urllib.error.HTTPError):
            answer = f"it answers {error.code} {error.reason}"
            if error.code in _GONE:
                return NotFound(f"{self.address}: {answer}", "correct the address")
            if error.code == _OUT_OF_RANGE and self.got:
                self._clear()
                return _InterruptedError(answer)
            return _InterruptedError(answer) if error.code in _AGAIN else self._failed(answer)
        if isinstance(error, RefusedError):
            return self._failed(str(error))
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            return self._failed(reason.verify_message or str(reason))
        if isinstance(error, OSError | http.client.HTTPException):
            return _InterruptedError(str(reason) or type(reason).__name__)
        return self._failed(f"{type(error).__name__} ({error})")

    def _failed(self, why: str) -> EnvstackError:
        return EnvstackError(f"{self.address} cannot be fetched: {why}", "envstack up tries again")

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"{self.address} has more than {self.most >> 20:,} MiB",
            "if you trust it: raise `archive: {max_mib: …}` in config.yaml, and restart the daemon",
        )

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._tell(None)
            time.sleep(_POLL)

    def _tell(self, total: int | None) -> None:
        of = f" of {total / (1 << 20):,.1f}" if total is not None else ""
        self.tell(f"{self.got / (1 << 20):,.1f}{of} MiB fetched")
