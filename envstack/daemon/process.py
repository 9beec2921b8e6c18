"""The life of the daemon process, from its start to its end.

Owns the order of things: locks before the launcher, the launcher before all that a child must not
have, the socket before recovery (so that clients wait instead of starting daemons of their own),
recovery before readiness. It ends on SIGTERM and SIGINT, on `daemon.stop`, and by itself when it is
needed no more; mounts stay as they are.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio

from envstack import __version__
from envstack.daemon import startup
from envstack.daemon.calls import explain
from envstack.daemon.server import Server
from envstack.errors import EnvstackError, Unsupported
from envstack.linux import cgroup, stopping
from envstack.linux.launcher import Launcher
from envstack.rpc.places import config_file
from envstack.rpc.places import places as places_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import TracebackType

    from anyio.abc import SocketListener

    from envstack.daemon.calls import Call, Handler
    from envstack.rpc.places import Places

log = logging.getLogger(__name__)


class Service(Protocol):
    """What the daemon serves. Entering it recovers; leaving it leaves the mounts as they are."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...

    def methods(self) -> Mapping[str, Handler]:
        """Return the handler of each method."""

    def environments(self) -> list[str]:
        """Return the names of the environments to be kept up; without any, nobody needs me."""


MakeService = Callable[[bytes, Launcher], Service]
"""Makes the service that keeps its store in this directory, and runs its commands by this."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how long to stay when needed no more, and how long to wait for requests to end."""

    linger: float = 3.0
    grace: float = 30.0


def main(
    environ: Mapping[str, str],
    ready_fd: int | None,
    make_service: MakeService | None = None,
    patience: Patience | None = None,
) -> int:
    """Be the daemon until it ends; return the exit code.

    With `ready_fd`, the write end of a pipe, it leaves its parent and tells through the pipe how
    the start went (`startup.Ready`). Without, it stays in the foreground, and raises EnvstackError
    where it cannot run.
    """
    make_service = make_service or partial(_make_service, environ)
    patience = patience or Patience()
    if ready_fd is None:
        level = startup.log_level(environ)
        open_log = partial(startup.log_to_file_and_terminal, level=level)
        places = places_of(environ, os.geteuid())
        run_daemon(places, make_service, startup.Ready(None), open_log, patience)
        return 0
    startup.detach()
    ready = startup.Ready(ready_fd)
    try:
        open_log = partial(startup.log_to_file, level=startup.log_level(environ))
        places = places_of(environ, os.geteuid())
        run_daemon(places, make_service, ready, open_log, patience)
    except EnvstackError as error:
        ready.fail(error)
        return error.exit_code
    return 0


def run_daemon(
    places: Places,
    make_service: MakeService,
    ready: startup.Ready,
    open_log: Callable[[bytes], None],
    patience: Patience,
) -> None:
    """Turn this process into the daemon of `places` and return when it has ended.

    Raises AlreadyRunningError, what entering the service raises, and EnvstackError for all else.
    """
    with ExitStack() as held:
        try:
            startup.settle()
            cgroup.leave()  # one that it will freeze
            stopping.leave()
            startup.make_directories(places)
            held.enter_context(startup.sole_daemon(places))
            launcher = held.enter_context(Launcher())
            startup.raise_limits()  # for this process alone, not for what users run
            open_log(places.log)
        except OSError as error:
            raise _no_start(error) from error
        try:
            serve = partial(make_service, places.home, launcher)
            anyio.run(_live, places, serve, ready, patience)
        except Exception as error:
            told = explain(error, "its main task", places.log)
            log.error("ended: %s", told)
            raise told from error
        log.info("ended")


def _no_start(error: OSError) -> EnvstackError:
    """Return why the directories, locks or log of a daemon cannot be made, for a user."""
    where = error.filename
    place = f": {os.fsdecode(where)}" if isinstance(where, str | bytes) else ""
    message = f"the daemon cannot start: {error.strerror or error}{place}"
    if error.errno == errno.EROFS:
        return Unsupported(
            message, "mount it writable, or set ENVSTACK_HOME to a directory that can be written"
        )
    return EnvstackError(message, "set ENVSTACK_HOME to a directory that can be written")


async def _live(
    places: Places, serve: Callable[[], Service], ready: startup.Ready, patience: Patience
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with _listening(places.socket) as listener, serve() as service:
            daemon = _Daemon(places, service, patience)
            log.info("version %s serves %s", __version__, os.fsdecode(places.home))
            ready.tell()
            await daemon.serve(listener, signals)


@asynccontextmanager
async def _listening(path: bytes) -> AsyncIterator[SocketListener]:
    """Yield a listener on `path`; a socket that a dead daemon left there is replaced."""
    async with await anyio.create_unix_listener(path, mode=0o600) as listener:
        try:
            yield listener
        finally:
            _unlink(path)


def _unlink(path: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _make_service(environ: Mapping[str, str], home: bytes, launcher: Launcher) -> Service:
    from envstack.daemon.service import Service as Environments
    from envstack.stackfile import limits

    config = config_file(environ)
    return Environments(home, launcher, limits=limits.load(config) if config else None)


class _Daemon:
    """The daemon from readiness to its end."""

    def __init__(self, places: Places, service: Service, patience: Patience) -> None:
        self._places = places
        self._service = service
        self._patience = patience
        own: dict[str, Handler] = {"daemon.status": self._status, "daemon.stop": self._stop_asked}
        self._server = Server({**service.methods(), **own}, places, self._on_close)
        self._closed = anyio.Event()
        self._stopping = False

    async def serve(self, listener: SocketListener, signals: AsyncIterator[signal.Signals]) -> None:
        """Serve until told to stop or needed no more, and until every request has ended."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._obey, signals)
            tasks.start_soon(self._leave_when_idle)
            await self._server.serve(listener, self._patience.grace)
            tasks.cancel_scope.cancel()

    def stop(self, reason: str) -> None:
        """Begin to end. Requests in a step that must not be torn finish it and are answered."""
        if self._stopping:
            return
        self._stopping = True
        log.info("stopping: %s", reason)
        _unlink(self._places.socket)  # who comes now starts the next daemon, and waits for the lock
        self._server.stop()
        # Kernel calls in worker threads cannot be cancelled; recovery copes with an end anywhere.
        watchdog = threading.Timer(2 * self._patience.grace, _give_up)
        watchdog.daemon = True
        watchdog.start()

    async def _obey(self, signals: AsyncIterator[signal.Signals]) -> None:
        async for number in signals:
            self.stop(number.name)

    async def _leave_when_idle(self) -> None:
        while True:
            closed = self._closed = anyio.Event()
            with anyio.move_on_after(math.inf if self._is_needed() else self._patience.linger):
                await closed.wait()
            if not closed.is_set() and not self._is_needed():
                self.stop("nothing is up and nobody is connected")
                return

    def _is_needed(self) -> bool:
        return self._server.connections > 0 or bool(self._service.environments())

    def _on_close(self) -> None:
        self._closed.set()

    async def _status(self, _call: Call, _params: dict[str, Any]) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "version": __version__,
            "home": os.fsdecode(self._places.home),
            "socket": os.fsdecode(self._places.socket),
            "log": os.fsdecode(self._places.log),
            "environments": self._service.environments(),
        }

    async def _stop_asked(self, call: Call, _params: dict[str, Any]) -> dict[str, Any]:
        self.stop(f"asked by process {call.peer_pid}")
        return {"pid": os.getpid()}


def _give_up() -> None:
    log.critical("requests have not ended in time; recovery will finish what they left")
    logging.shutdown()
    os._exit(1)
