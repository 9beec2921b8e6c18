"""The change feed as it comes over the socket: subscriptions and barriers, with no client's help.

What a feed promises is another module's business; here are only its objects, one after the other.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any, Protocol, Self

from envstack import __version__
from envstack.errors import NoDaemon
from envstack.rpc import messages
from envstack.rpc.framing import Lines
from envstack.rpc.messages import Failure, Notification, Request, Response
from envstack.rpc.places import places

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from envstack.rpc.messages import Message
    from tests.support.sandbox import Sandbox

Json = dict[str, Any]

WITHIN = 60.0
"""Seconds that an answer, or the next event where one must come, may take."""

_HELLO, _REQUEST = 0, 1
_BYTES = 1 << 18


class FeedEndedError(Exception):
    """The other end is gone: what was told before stands, and a cursor leads on."""


class Refused(Exception):
    """The daemon refused; `kind` and `exit_code` are what it answered."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.kind = failure.data.get("kind")
        self.exit_code = failure.data.get("exit")


class Feed(Protocol):
    """One subscription."""

    def next(self, within: float = WITHIN) -> Json | None:
        """Return the next feed object, None if none came in so many seconds.

        Raises FeedEndedError.
        """

    def close(self) -> None: ...


class Source(Protocol):
    """Where subscriptions come from, and the tree that they speak of."""

    @property
    def merged(self) -> Path: ...

    def is_mounted(self) -> bool: ...

    def subscribe(self, since: str | None = None, **options: object) -> Feed: ...

    def sync(self) -> Json:
        """Return `cursor` and `seq` of a barrier. Raises FeedEndedError."""


class Connection:
    """One request on a connection of its own: the notices that come with it, and its answer."""

    def __init__(self, path: bytes, method: str, params: Json) -> None:
        self._lines = Lines()
        self._received: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
            self._say(Request(_HELLO, messages.HELLO, _hello()))
            self._say(Request(_REQUEST, method, params))
        except OSError as error:
            self._socket.close()
            raise FeedEndedError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hear(self, within: float) -> Notification | Response | None:
        """Return what comes next of the request; None if nothing does within so many seconds.

        Raises FeedEndedError, and Refused with the answer of a request that failed.
        """
        deadline = time.monotonic() + within
        while (line := self._line(deadline)) is not None:
            match messages.decode_answer(line):
                case Failure() as failure:
                    raise Refused(failure)
                case Response(id=answered) if answered == _HELLO:
                    pass
                case message:
                    return message
        return None

    def cancel(self) -> None:
        """Give the request up; it is answered all the same."""
        self._say(Notification(messages.CANCEL, {"id": _REQUEST}))

    def _say(self, message: Message) -> None:
        self._socket.sendall(messages.encode(message))

    def _line(self, deadline: float) -> bytes | None:
        while not self._received:
            # The least that is no "do not wait at all", so that what is there is read in any case.
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-6))
            try:
                data = self._socket.recv(_BYTES)
            except TimeoutError:
                return None
            except OSError as error:
                raise FeedEndedError(str(error)) from error
            if not data:
                raise FeedEndedError("the daemon closed the connection")
            self._received = list(self._lines.feed(data))[::-1]
        return self._received.pop()


class Subscription(Connection):
    """A `feed.subscribe` that runs."""

    def next(self, within: float = WITHIN) -> Json | None:
        """Return the next feed object, None if none came in so many seconds."""
        message = self.hear(within)
        if message is None:
            return None
        assert isinstance(message, Notification), f"a subscription was answered: {message}"
        assert message.method == "event", f"a subscription brought {message}"
        told = dict(message.params)
        assert told.pop("subscription") == _REQUEST, f"an event of another request: {message}"
        return told


class SocketSource:
    """The feed of a sandbox; its daemon is started if none runs."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._path = places({"ENVSTACK_HOME": str(sandbox.home)}, os.geteuid()).socket

    @property
    def merged(self) -> Path:
        return self._sandbox.merged

    def is_mounted(self) -> bool:
        return os.path.ismount(self.merged)

    def subscribe(self, since: str | None = None, **options: object) -> Subscription:
        """Subscribe; `options` are further params. What is refused is told by the first `next`."""
        params = {"stack": str(self._sandbox.stack), **options}
        if since is not None:
            params["since"] = since
        self._start()
        return Subscription(self._path, "feed.subscribe", params)

    def sync(self) -> Json:
        self._start()
        with Connection(self._path, "feed.sync", {"stack": str(self._sandbox.stack)}) as connection:
            message = connection.hear(WITHIN)
        assert isinstance(message, Response), f"feed.sync brought {message} in {WITHIN} s"
        answer: Json = message.result
        assert answer.keys() >= {"cursor", "seq"}, f"feed.sync answered {answer}"
        return answer

    def _start(self) -> None:
        """See to it that a daemon listens."""
        try:
            self._sandbox.connect().close()
        except NoDaemon as error:  # somebody killed it while it started
            raise FeedEndedError(error.message) from error


def whole(feed: Feed, last: int) -> Iterator[Json]:
    """Yield what a subscription tells up to the event with the seq `last`."""
    while True:
        told = feed.next()
        assert told is not None, f"no event in {WITHIN} s, and seq {last} is still to come"
        yield told
        if told["seq"] >= last:
            return


def _hello() -> Json:
    return {"protocol": messages.PROTOCOL, "version": __version__}
