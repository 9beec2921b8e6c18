"""One feed over as many connections as it takes: what is asked for, and where it goes on.

Waits for no event and knows nobody who does: `feed` and `async_feed` do, each in its own way. All
that was told and not taken yet lies with the daemon, but for what one read brought.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from envstack.client import RemoteError, connect, connect_or_start
from envstack.errors import Cancelled, NoDaemon, UsageError
from envstack.rpc.messages import EVENT, FEED_SUBSCRIBE, Failure, Json, Notification, Response
from envstack.rpc.places import Places, places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from envstack.client import Client

_STACK_FILE = "envstack.yaml"

_ATTEMPTS = 10
"""How often in a row a daemon may end as soon as it runs, or not come up."""

_LASTING = 1.0
"""Seconds after which a connection counts as one that was good."""

_PATIENCE = 30.0
"""Seconds for a daemon to come up again."""

_PAUSE = 0.1
"""Seconds before it is tried again, as many times as it went wrong before."""

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class Subscription:
    """The feed objects of one environment, after a place in its feed.

    Whoever owns it takes until there is nothing, waits for input on `fileno`, then calls `receive`;
    ConnectionEnded is answered by `renew`, unless it `is_stopped`.
    """

    def __init__(self, client: Client, own_places: Places, params: Json) -> None:
        """Take over `client` and ask for the feed; `params` are those of the request."""
        self._places = own_places
        self._params = params
        self._client = client
        self._fresh: str | None = None
        self._fruitless = 0
        self._changing = threading.RLock()  # a signal handler may stop what holds it
        self.is_stopped = False
        self._begin()

    def _begin(self) -> None:
        self._is_fruitful = False
        self._began = time.monotonic()
        self._id = self._client.begin(FEED_SUBSCRIBE, self._params)

    def fileno(self) -> int:
        """Return the descriptor on which more arrives; another one after `renew`."""
        return self._client.fileno()

    def take(self) -> Json | None:
        """Return the next feed object that has arrived, None where none has.

        Raises RemoteError with what the daemon says against it, NoDaemon where it was told to stop.
        """
        while (message := self._client.take()) is not None:
            match message:
                case Notification(method, params) if method == EVENT:
                    if params.get("subscription") == self._id:
                        return self._told(params)
                case Failure(answered, _code, text, data) if answered in (self._id, None):
                    raise _refusal(text, data)
                case Response(answered) if answered == self._id:
                    raise NoDaemon("the daemon has ended the feed", "envstack status")
                case _:
                    pass  # a notification of another kind, which a newer daemon may send
        return None

    def _told(self, params: Json) -> Json:
        cursor = params.get("cursor")
        if params.get("event") == "ready" and params.get("fresh"):
            self._fresh = cursor
        # What differs from the head comes in pieces of one cursor: until something else is told,
        # nobody knows whether all of it was, and it is asked for once more.
        if cursor not in (self._fresh, self._params.get("since")):
            self._params = {**self._params, "since": cursor}
            self._is_fruitful = True
        return {key: value for key, value in params.items() if key != "subscription"}

    def receive(self) -> None:
        """Read what has arrived, or wait for it; raises ConnectionEnded."""
        self._client.receive()

    def renew(self) -> None:
        """Connect anew, and ask for what comes after the last object that was taken.

        The daemon is started if none runs. Raises NoDaemon where it ends again and again, and what
        else `connect_or_start` raises.
        """
        is_good = self._is_fruitful or time.monotonic() - self._began > _LASTING
        self._fruitless = 0 if is_good else self._fruitless + 1
        if self._fruitless == _ATTEMPTS:
            raise NoDaemon(
                f"the daemon ended {_ATTEMPTS} times in a row",
                f"see {os.fsdecode(self._places.log)}",
            )
        client = self._connected()
        with self._changing:
            if self.is_stopped:
                client.close()
                return
            self._client.close()
            self._client = client
            self._begin()

    def _connected(self) -> Client:
        deadline = time.monotonic() + _PATIENCE
        while True:
            time.sleep(_PAUSE * self._fruitless)
            try:
                return connect_or_start(self._places)
            except NoDaemon:  # killed while it came up, or it never does
                self._fruitless += 1
                is_over = self._fruitless == _ATTEMPTS or time.monotonic() > deadline
                if is_over or self.is_stopped:
                    raise

    def stop(self) -> None:
        """Let whoever waits for more meet ConnectionEnded, from any thread."""
        with self._changing:
            self.is_stopped = True
            self._client.hang_up()

    def close(self) -> None:
        """Stop, and give the connection back."""
        with self._changing:
            self.is_stopped = True
            self._client.close()


def own_daemon() -> Places:
    """Return where the daemon of this user is to be found, by the environment variables."""
    return places(os.environ, os.geteuid())


def stack_file(stack: AnyPath) -> str:
    """Return the canonical path of a stack file, which may be named by its directory."""
    path = os.path.realpath(os.fsdecode(stack))
    return os.path.join(path, _STACK_FILE) if os.path.isdir(path) else path


def params_of(stack: AnyPath, since: str | None, ignore: Sequence[str], prefix: AnyPath) -> Json:
    """Return the params of a request for the feed. Raises UsageError where `ignore` is a text."""
    if isinstance(ignore, str):
        raise UsageError("`ignore` is a list of patterns", f"ignore=[{ignore!r}]")
    return {
        "stack": stack_file(stack),
        "since": since,
        "ignore": list(ignore),
        "prefix": os.fsdecode(prefix) or None,
    }


def subscribe(own_places: Places, params: Json) -> Subscription:
    """Return a subscription with the daemon that runs; raises as `connect` does."""
    return Subscription(connect(own_places), own_places, params)


def _refusal(message: str, data: Json) -> Exception:
    error = RemoteError(message, data)
    if error.kind == Cancelled.kind:  # nobody here has asked for that
        return NoDaemon("the daemon was stopped", "envstack up starts it, and the feed goes on")
    return error
