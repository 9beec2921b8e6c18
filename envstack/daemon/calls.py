"""One request: what its handler may ask of it, and how what the handler does becomes an answer.

An exception ends the request and nothing else. What a user can act upon is answered in full; what
is the daemon's own fault is logged with its traceback, and the answer names the log.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import errno
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
from anyio import from_thread

from envstack.errors import Cancelled, EnvstackError
from envstack.rpc import messages

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectSendStream

log = logging.getLogger(__name__)

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class Call:
    """A running request, as its handler sees it.

    `peer_pid` is the process that asks, 0 where this pid namespace has none. `cancelled` is set
    when the answer is no longer wanted: by `$/cancel`, because the peer is gone, or because the
    daemon stops. The handler's task is cancelled at that moment too; blocking code in a worker
    thread, entered through a shielded scope, looks at `cancelled` where it can stop without harm.
    """

    def __init__(
        self, request: messages.Request, peer_pid: int, outbox: MemoryObjectSendStream[bytes]
    ) -> None:
        self.request = request
        self.peer_pid = peer_pid
        self.cancelled = threading.Event()
        self._scope = anyio.CancelScope()
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._latest: messages.Progress | None = None
        self._latest_lock = threading.Lock()
        self._answered = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def progress(
        self, message: str, done: int | None = None, total: int | None = None
    ) -> None:
        """Tell the peer how far the request has come; waits while the peer reads slowly."""
        with contextlib.suppress(anyio.BrokenResourceError):  # the peer is gone, and is cancelled
            await self._outbox.send(self._line(messages.Progress(message, done, total)))

    def report(self, message: str, done: int | None = None, total: int | None = None) -> None:
        """Like `progress`, from any thread: never waits, never raises.

        Of reports that come faster than they can be sent, the latest is sent.
        """
        with self._latest_lock:
            is_due = self._latest is not None
            self._latest = messages.Progress(message, done, total)
        if not is_due:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._send_latest)

    def show(self, piece: bytes) -> None:
        """Send the peer what a command printed, from a worker thread; waits while it reads slowly.

        Every piece is sent: a command that prints faster than its reader reads has to wait.
        """
        text = self._decoder.decode(piece)
        if text:
            from_thread.run(self._send_output, text)

    async def _send_output(self, text: str) -> None:
        line = messages.encode(messages.output(self.request.id, messages.Output(text)))
        with contextlib.suppress(anyio.BrokenResourceError):  # the peer is gone, and is cancelled
            await self._outbox.send(line)

    async def tell(self, event: messages.Json) -> None:
        """Send the peer an event of a feed; waits while it reads slowly, until it is gone."""
        params = {"subscription": self.request.id, **event}
        await self._outbox.send(messages.encode(messages.Notification(messages.EVENT, params)))

    def cancel(self) -> None:
        """Ask the handler to stop; called from the event loop."""
        self.cancelled.set()
        self._scope.cancel()

    async def answer(self, handler: Handler, log_path: bytes) -> bytes:
        """Run the handler and return the line that answers the request. Raises nothing."""
        line = self._failed(Cancelled("the request was cancelled"))
        with self._scope:
            line = await self._outcome(handler, log_path)
        self._answered = True
        return line

    async def _outcome(self, handler: Handler, log_path: bytes) -> bytes:
        try:
            result = await handler(self, self.request.params)
            return messages.encode(messages.Response(self.request.id, result))
        except Exception as error:
            return self._failed(explain(error, self.request.method, log_path))

    def _failed(self, error: EnvstackError) -> bytes:
        return messages.encode(messages.failure(self.request.id, error))

    def _send_latest(self) -> None:
        with self._latest_lock:
            latest, self._latest = self._latest, None
        if latest is None or self._answered:
            return
        gone = (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError)
        with contextlib.suppress(*gone):  # a full queue: the peer reads slowly, and may miss one
            self._outbox.send_nowait(self._line(latest))

    def _line(self, value: messages.Progress) -> bytes:
        return messages.encode(messages.progress(self.request.id, value))


Handler = Callable[[Call, dict[str, Any]], Awaitable[Any]]
"""Serves one method: takes the params, returns what JSON can hold or raises."""


class InternalError(EnvstackError):
    """A fault of the daemon's own."""

    kind = "internal"
    code = messages.INTERNAL_ERROR


def explain(error: Exception, doing: str, log_path: bytes) -> EnvstackError:
    """Return `error` as one to show a user; what is nobody's plan is logged with its traceback."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # a task group wraps what its tasks raise
    if isinstance(error, EnvstackError):
        return error
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        log.warning("%s: %s", doing, error)
        where = error.filename
        known = isinstance(where, (str, bytes))
        return EnvstackError(
            f"no space left on the file system of {os.fsdecode(where) if known else 'the store'}",
            "free some space there, and try again",
        )
    log.error("%s failed", doing, exc_info=error)
    return InternalError(
        f"the daemon failed unexpectedly in {doing} ({type(error).__name__})",
        f"the details are in {os.fsdecode(log_path)}",
    )
