"""What a process does to itself to become the daemon: directories, locks, log, limits, streams.

Each step is taken once, before the event loop starts, and raises EnvstackError where the daemon
must not run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import logging.handlers
import os
import resource
import stat
from typing import TYPE_CHECKING, Any

from envstack.errors import EnvstackError, StateError, UsageError
from envstack.rpc import messages

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator, Mapping

    from envstack.rpc.places import Places

log = logging.getLogger(__name__)

_LOG_BYTES = 1 << 20
_LOG_FILES = 3
_LEVELS = ("debug", "info", "warning", "error")


class AlreadyRunningError(StateError):
    """Another daemon has the lock: whoever wants one can talk to that."""

    kind = "already-running"


class Ready:
    """Tells the starter, once, how the start went: one JSON line on the pipe `fd`, then its end.

    `{"ready": true}`, or `{"error": {kind, message, hint, exit, …}}`. With `fd` None nobody waits.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def tell(self) -> None:
        """The daemon serves."""
        self._write({"ready": True})

    def fail(self, error: EnvstackError) -> None:
        """The daemon will not serve; has no effect after `tell`."""
        failure = messages.failure(None, error)
        self._write({"error": {"message": failure.message, **failure.data}})

    def _write(self, verdict: messages.Json) -> None:
        if self._fd is None:
            return
        with os.fdopen(self._fd, "wb", buffering=0) as pipe:
            self._fd = None
            try:
                pipe.write(json.dumps(verdict).encode("ascii") + b"\n")
            except BrokenPipeError:
                log.info("the process that started this one waits no more")


def detach() -> None:
    """Go on in a child process that nobody waits for, with null as standard input and output.

    The parent ends here, so that the starter can reap it at once.
    """
    if os.fork() != 0:
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def settle() -> None:
    """Hold no directory, and make files for the owner alone."""
    os.chdir("/")
    os.umask(0o077)


def raise_limits() -> None:
    """Allow as many open files as the limit lets."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def make_directories(places: Places) -> None:
    """Make the directories of home, lock and socket, closed to other users; StateError if not."""
    os.makedirs(places.home, mode=0o700, exist_ok=True)
    _close_to_others(places.home, 0)  # a home may be a link to a larger disk
    for path in {os.path.dirname(places.lock), os.path.dirname(places.socket)} - {places.home}:
        os.makedirs(path, mode=0o700, exist_ok=True)
        _close_to_others(path, os.O_NOFOLLOW)  # it may lie in /tmp, where links are traps


def _close_to_others(path: bytes, flags: int) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags)
    try:
        facts = os.fstat(directory)
        if facts.st_uid != os.geteuid():
            raise StateError(
                f"{os.fsdecode(path)} belongs to another user ({facts.st_uid})",
                "set ENVSTACK_HOME to a directory of your own",
            )
        if stat.S_IMODE(facts.st_mode) & 0o077:
            os.fchmod(directory, 0o700)
    finally:
        os.close(directory)


@contextlib.contextmanager
def sole_daemon(places: Places) -> Iterator[None]:
    """Hold the lock file, which guards the socket, and a lock on home, which guards the store.

    Two, because environment variables can name one home with two sockets. Both are advisory,
    flock(2), and end with the process. Raises AlreadyRunningError, or StateError for home alone.
    """
    with contextlib.ExitStack() as locks:
        lock_file = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        locks.callback(os.close, lock_file)
        if not _lock(lock_file):
            owner = os.pread(lock_file, 32, 0).decode("ascii", "replace").strip()
            raise AlreadyRunningError(f"another daemon runs (process {owner or 'unknown'})")
        home = os.open(places.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        locks.callback(os.close, home)
        if not _lock(home):
            raise StateError(
                f"another daemon keeps {os.fsdecode(places.home)}, with a socket elsewhere",
                "it was started under another XDG_RUNTIME_DIR: use the same, or end that daemon",
            )
        os.ftruncate(lock_file, 0)
        os.pwrite(lock_file, b"%d\n" % os.getpid(), 0)
        yield


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def log_level(environ: Mapping[str, str]) -> str:
    """Return what `ENVSTACK_LOG` asks for, `info` by default; raises UsageError."""
    level = environ.get("ENVSTACK_LOG") or "info"
    if level.lower() not in _LEVELS:
        raise UsageError(f"ENVSTACK_LOG is {level!r}; it may be one of {', '.join(_LEVELS)}")
    return level.upper()


def log_to_file(path: bytes, level: str) -> None:
    """Log to `path`; standard error, where an interpreter's last words go, leads there too."""
    _start_log(level, _LogFileAndStderr(**_log_file(path)))


def log_to_file_and_terminal(path: bytes, level: str) -> None:
    """Log to `path` and to standard error."""
    _start_log(
        level, logging.handlers.RotatingFileHandler(**_log_file(path)), logging.StreamHandler()
    )


def _log_file(path: bytes) -> dict[str, Any]:
    return {
        "filename": os.fsdecode(path),
        "maxBytes": _LOG_BYTES,
        "backupCount": _LOG_FILES - 1,
        "encoding": "utf-8",
        "errors": "backslashreplace",
    }


def _start_log(level: str, *handlers: logging.Handler) -> None:
    pattern = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(format=pattern, level=level, handlers=handlers)


class _LogFileAndStderr(logging.handlers.RotatingFileHandler):
    """Takes standard error along to each new file."""

    def _open(self) -> io.TextIOWrapper:
        stream = super()._open()
        os.dup2(stream.fileno(), 2)
        return stream
