"""One connection to the daemon: the greeting, and one call at a time."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from envstack import __version__
from envstack.errors import Cancelled, EnvstackError, NoDaemon, StateError
from envstack.rpc import messages
from envstack.rpc.framing import Lines
from envstack.rpc.messages import Failure, Notification, Output, Progress, Request, Response
from envstack.rpc.peer import age, mount_namespace, peer_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import NoReturn

    from envstack.rpc.places import Places

_CANCEL_SECONDS = 10.0
_RECEIVE_BYTES = 1 << 18


class NotRunning(NoDaemon):
    """No daemon runs: there is no socket, or nobody listens on it."""


class ConnectionEnded(NoDaemon):
    """The daemon has closed the connection, or is no more."""


class RemoteError(EnvstackError):
    """What the daemon answered; kind, exit code and details are those that came over the wire."""

    def __init__(self, message: str, data: messages.Json) -> None:
        """Take `data` as `{kind, hint, exit}` and more; what is missing counts as a failure."""
        super().__init__(message, str(data.get("hint", "")))
        self.kind = str(data.get("kind", "failed"))
        exit_code = data.get("exit", 1)
        self.exit_code = exit_code if isinstance(exit_code, int) else 1
        self.data = data

    def details(self) -> dict[str, Any]:
        own = {"kind", "message", "hint", "exit"}
        return {key: value for key, value in self.data.items() if key not in own}


class Client:
    """A connection to the daemon; one call at a time. Closes with its context.

    `identity` is what the daemon said in its greeting: `{protocol, version, pid, mount_ns, home}`.
    """

    def __init__(self, connection: socket.socket, places: Places, deadline: float) -> None:
        """Take over `connection`, on which nothing was said yet, and greet.

        `deadline` is of the monotonic clock. Raises TimeoutError, ConnectionEnded, and what
        `connect` says of daemons that do not fit.
        """
        self._connection = connection
        self._places = places
        self._lines = Lines()
        self._received: deque[bytes] = deque()
        self._last_id = 0
        hello = {"protocol": messages.PROTOCOL, "version": __version__}
        self.identity = self._request(messages.HELLO, hello, deadline)
        self._check_identity()

    @property
    def daemon_pid(self) -> int:
        """The daemon's process as the kernel names it here; 0 in another pid namespace."""
        return peer_of(self._connection).pid

    @property
    def is_outdated(self) -> bool:
        """Whether the daemon is older than this program."""
        daemon = age(self.identity["protocol"], self.identity["version"])
        return daemon < age(messages.PROTOCOL, __version__)

    def call(
        self,
        method: str,
        params: messages.Json | None = None,
        on_notice: Callable[[Progress | Output], None] | None = None,
    ) -> Any:
        """Return the result of `method`; `on_notice` is told how far it has come, and what a
        command that it runs has printed.

        Raises RemoteError with the daemon's answer, NoDaemon if it ends meanwhile. Ctrl-C cancels
        the request, waits for how that went (ten seconds at most) and raises Cancelled.
        """
        try:
            return self._request(method, params or {}, None, on_notice)
        except KeyboardInterrupt:
            self._cancel(self._last_id)

    def begin(self, method: str, params: messages.Json) -> int:
        """Send a request and return its id; what comes of it is to be had from `take`."""
        self._last_id += 1
        self._send(Request(self._last_id, method, params))
        return self._last_id

    def take(self) -> Response | Failure | Notification | None:
        """Return the next message that has arrived, None where none has; raises ProtocolError."""
        return messages.decode_answer(self._received.popleft()) if self._received else None

    def receive(self, seconds: float | None = None) -> None:
        """Wait until something arrives, be it a part of a message alone.

        Raises TimeoutError where nothing does, ConnectionEnded when the daemon is no more.
        """
        self._connection.settimeout(seconds)
        try:
            data = self._connection.recv(_RECEIVE_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            raise ConnectionEnded(
                "the daemon ended before it answered; what it began is finished or undone",
                f"envstack up; envstack log; see {os.fsdecode(self._places.log)} too",
            )
        self._received.extend(self._lines.feed(data))

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return self._connection.fileno()

    def hang_up(self) -> None:
        """End the connection from any thread: who waits in `receive` meets ConnectionEnded."""
        with contextlib.suppress(OSError):  # the other end is gone already
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection, of which nobody may make use any more."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_identity(self) -> None:
        """Raise unless this daemon can serve this process: same mounts, same store."""
        where = os.fsdecode(self._places.socket)
        if not _is_identity(self.identity):
            raise NoDaemon(
                f"what answers on {where} is no envstack daemon", "end it, or set ENVSTACK_HOME"
            )
        if self.identity["mount_ns"] != mount_namespace():
            raise StateError(
                f"the daemon (process {self.identity['pid']}) lives in another mount namespace, "
                "so its mounts are not seen here",
                f"nsenter -t {self.identity['pid']} -m envstack …, or set another ENVSTACK_HOME",
            )
        home = self.identity.get("home")
        if isinstance(home, str) and not _is_same_directory(os.fsencode(home), self._places.home):
            raise StateError(
                f"the daemon on {where} keeps another store: {home}",
                "set ENVSTACK_HOME, which gives each store a socket of its own",
            )

    def _request(
        self,
        method: str,
        params: messages.Json,
        deadline: float | None,
        on_notice: Callable[[Progress | Output], None] | None = None,
    ) -> Any:
        return self._answer(self.begin(method, params), deadline, on_notice)

    def _cancel(self, request_id: int) -> NoReturn:
        try:
            self._send(Notification(messages.CANCEL, {"id": request_id}))
            self._answer(request_id, time.monotonic() + _CANCEL_SECONDS)
        except RemoteError as error:
            if error.kind != Cancelled.kind:
                raise
            raise Cancelled(error.message, error.hint) from None
        except TimeoutError:
            raise Cancelled("the daemon was asked to cancel, and has not answered yet") from None
        raise Cancelled(
            "the request was done before it could be cancelled", "envstack status"
        ) from None

    def _send(self, message: messages.Message) -> None:
        # A daemon that is gone may have said why before: what it said is read next, or its end.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.settimeout(None)
            self._connection.sendall(messages.encode(message))

    def _answer(
        self,
        request_id: int,
        deadline: float | None,
        on_notice: Callable[[Progress | Output], None] | None = None,
    ) -> Any:
        while True:
            match self.take():
                case None:
                    self.receive(
                        None if deadline is None else max(deadline - time.monotonic(), 0.001)
                    )
                case Response(answered, result) if answered == request_id:
                    return result
                case Failure(answered, _code, message, data) if answered in (request_id, None):
                    raise RemoteError(message, data)
                case Notification(method, params) if params.get("id") == request_id:
                    notice = _notice(method, params)
                    if on_notice is not None and notice is not None:
                        on_notice(notice)
                case _:
                    pass  # it belongs to a request that was given up, or nobody asked for it


def _is_identity(value: object) -> bool:
    types = {"protocol": int, "version": str, "pid": int, "mount_ns": int}
    return isinstance(value, dict) and all(
        isinstance(value.get(key), kind) for key, kind in types.items()
    )


def _is_same_directory(a: bytes, b: bytes) -> bool:
    try:
        return a == b or os.path.samefile(a, b)
    except OSError:
        return False


def _notice(method: str, params: messages.Json) -> Progress | Output | None:
    match method:
        case messages.PROGRESS:
            message = str(params.get("message", ""))
            return Progress(message, params.get("done"), params.get("total"))
        case messages.OUTPUT:
            return Output(str(params.get("text", "")))
    return None
