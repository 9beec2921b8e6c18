"""The socket: connections, their greeting, and requests that run side by side.

Owns every connection. A request that fails, a line that is no message, a peer that reads slowly or
goes away: each is the matter of its own connection, and the server lives on. What the methods do is
the handlers' business.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute

from envstack import __version__
from envstack.daemon.calls import Call
from envstack.errors import EnvstackError, NoDaemon
from envstack.rpc import messages
from envstack.rpc.framing import Lines, LineTooLongError
from envstack.rpc.messages import Notification, ProtocolError, Request, Response
from envstack.rpc.peer import Peer, age, mount_namespace, peer_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from anyio.abc import SocketListener, SocketStream, TaskGroup
    from anyio.streams.memory import MemoryObjectReceiveStream

    from envstack.daemon.calls import Handler
    from envstack.rpc.places import Places

log = logging.getLogger(__name__)

_QUEUED_LINES = 64
"""Lines that wait for a slow reader before those who answer it wait too."""

_LAST_WORDS = 2.0
"""Seconds that a line may take to be read by its peer when the daemon ends."""

_RUNNING_MAX = 256
"""Requests of one connection that run at once."""

_ACCEPT_PAUSE = 0.1
"""Seconds to wait when the kernel refuses to hand over a connection (file descriptors, memory)."""


class Server:
    """Serves `handlers` to processes of the daemon's own user and of root."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        places: Places,
        on_close: Callable[[], None],
    ) -> None:
        self.handlers = handlers
        self.places = places
        self._on_close = on_close
        self._connections: set[_Connection] = set()
        self._accepting = anyio.CancelScope()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def serve(self, listener: SocketListener, grace: float) -> None:
        """Serve until `stop`, close the listener, and wait `grace` seconds for requests to end."""
        async with anyio.create_task_group() as tasks:
            with self._accepting:
                await self._accept(listener, tasks)
            await listener.aclose()
            tasks.cancel_scope.deadline = anyio.current_time() + grace
            for connection in self._connections:
                connection.finish()

    def stop(self) -> None:
        """Take no more connections, and ask every request to stop where it can."""
        self._accepting.cancel()

    async def _accept(self, listener: SocketListener, tasks: TaskGroup) -> None:
        while True:
            try:
                stream = await listener.accept()
            except anyio.BrokenResourceError as error:
                log.warning("a connection could not be accepted: %s", error.__cause__)
                await anyio.sleep(_ACCEPT_PAUSE)
                continue
            connection = _Connection(self, stream)
            self._connections.add(connection)
            tasks.start_soon(self._attend, connection)

    async def _attend(self, connection: _Connection) -> None:
        try:
            await connection.serve()
        except Exception:
            log.exception("a connection failed")
        finally:
            self._connections.remove(connection)
            self._on_close()


class _Connection:
    """One client. Reading, writing and every request have tasks of their own."""

    def __init__(self, server: Server, stream: SocketStream) -> None:
        self._server = server
        self._stream = stream
        self._peer = Peer(0, -1)
        self._greeted = False
        self._running: dict[messages.Id, Call] = {}
        self._reading = anyio.CancelScope()
        self._sending = anyio.CancelScope()
        self._patience = math.inf
        self._outbox, self._queued = anyio.create_memory_object_stream[bytes](_QUEUED_LINES)

    async def serve(self) -> None:
        """Serve until the peer is gone or `finish` is called; every request is answered first."""
        async with self._stream, anyio.create_task_group() as tasks:
            tasks.start_soon(self._write, self._queued)
            async with self._outbox:
                if not await self._is_welcome():
                    return
                async with anyio.create_task_group() as requests:
                    with self._reading:
                        await self._read(requests)
                    for call in self._running.values():
                        call.cancel()

    def finish(self) -> None:
        """Read no more, ask every request to stop, and wait for no peer that reads nothing."""
        self._reading.cancel()
        self._patience = _LAST_WORDS
        self._sending.deadline = anyio.current_time() + _LAST_WORDS

    async def _is_welcome(self) -> bool:
        raw_socket: socket.socket = self._stream.extra_attributes[SocketAttribute.raw_socket]()
        self._peer = peer_of(raw_socket)
        if self._peer.uid in (0, os.geteuid()):
            return True
        log.warning("refused process %d of user %d", self._peer.pid, self._peer.uid)
        await self._fail(None, EnvstackError("this daemon serves another user"))
        return False

    async def _write(self, queued: MemoryObjectReceiveStream[bytes]) -> None:
        # A peer that is gone closes the queue here, and so tells those who answer it.
        async with queued:
            with contextlib.suppress(anyio.BrokenResourceError):
                async for line in queued:
                    with anyio.move_on_after(self._patience) as self._sending:
                        await self._stream.send(line)
                    if self._sending.cancelled_caught:
                        return

    async def _read(self, requests: TaskGroup) -> None:
        lines = Lines(messages.MAX_REQUEST)
        try:
            while True:
                for line in lines.feed(await self._stream.receive()):
                    await self._take(line, requests)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            log.debug("process %d has gone", self._peer.pid)
        except LineTooLongError:
            text = f"a request has at most {messages.MAX_REQUEST} bytes"
            await self._fail(None, ProtocolError(messages.INVALID_REQUEST, text))

    async def _take(self, line: bytes, requests: TaskGroup) -> None:
        try:
            message = messages.decode_request(line)
            if isinstance(message, Notification):
                self._notice(message)
            elif message.method == messages.HELLO:
                await self._greet(message)
            else:
                call, handler = self._admit(message)
                requests.start_soon(self._run, call, handler)
        except ProtocolError as error:
            await self._fail(error.id, error)

    def _notice(self, message: Notification) -> None:
        if message.method != messages.CANCEL:
            log.debug("process %d notifies of %r", self._peer.pid, message.method)
            return
        request_id = message.params.get("id")
        # The request may have been answered meanwhile, and an id of any type may be asked for.
        call = self._running.get(request_id) if isinstance(request_id, (int, str)) else None
        if call is not None:
            call.cancel()

    async def _greet(self, hello: Request) -> None:
        protocol, version = hello.params.get("protocol"), hello.params.get("version")
        if not isinstance(protocol, int) or not isinstance(version, str):
            text = "hello carries an integer `protocol` and a string `version`"
            raise ProtocolError(messages.INVALID_PARAMS, text, hello.id)
        if age(protocol, version) < age(messages.PROTOCOL, __version__):
            newer = NoDaemon(
                f"the daemon is version {__version__}, newer than this envstack ({version})",
                "use the newer envstack, or end its daemon with its own: envstack daemon stop",
            )
            await self._fail(hello.id, newer)
            self.finish()
            return
        self._greeted = True
        identity = {
            "protocol": messages.PROTOCOL,
            "version": __version__,
            "pid": os.getpid(),
            "mount_ns": mount_namespace(),
            "home": os.fsdecode(self._server.places.home),
        }
        await self._send(messages.encode(Response(hello.id, identity)))

    def _admit(self, request: Request) -> tuple[Call, Handler]:
        """Register the request as running; raises ProtocolError where it cannot run."""
        handler = self._server.handlers.get(request.method)
        if not self._greeted:
            raise ProtocolError(messages.INVALID_REQUEST, "the first message is hello", request.id)
        if handler is None:
            text = f"there is no method {request.method!r}"
            raise ProtocolError(messages.METHOD_NOT_FOUND, text, request.id)
        if request.id in self._running:
            text = "a request of this id is running"
            raise ProtocolError(messages.INVALID_REQUEST, text, request.id)
        if len(self._running) >= _RUNNING_MAX:
            text = f"{_RUNNING_MAX} requests are running"
            raise ProtocolError(messages.INVALID_REQUEST, text, request.id)
        call = Call(request, self._peer.pid, self._outbox)
        self._running[request.id] = call
        return call, handler

    async def _run(self, call: Call, handler: Handler) -> None:
        log.debug("process %d asks for %s", self._peer.pid, call.request.method)
        line = await call.answer(handler, self._server.places.log)
        del self._running[call.request.id]
        await self._send(line)

    async def _fail(self, request_id: messages.Id | None, error: EnvstackError) -> None:
        await self._send(messages.encode(messages.failure(request_id, error)))

    async def _send(self, line: bytes) -> None:
        with contextlib.suppress(anyio.BrokenResourceError):  # the peer is gone
            await self._outbox.send(line)
