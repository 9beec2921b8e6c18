"""The command line as a user runs it, and a daemon that answers whatever a test tells it to."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from envstack import __version__
from envstack.errors import EnvstackError
from envstack.rpc import messages
from envstack.rpc.messages import Failure, Notification, Request, Response
from envstack.rpc.peer import mount_namespace, peer_of
from envstack.rpc.places import places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parents[2]
MODULE = (sys.executable, "-m", "envstack")
WITHIN = 30.0

IN_ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Variables by which Python takes file names and standard streams for ASCII."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        assert self.err == "", self.err
        return json.loads(self.out)

    @property
    def error(self) -> Json:
        """The one error object, which is all that was said."""
        assert self.out == "", self.out
        told: Json = json.loads(self.err)
        assert list(told) == ["error"]
        error: Json = told["error"]
        return error


@dataclass
class Cli:
    """Runs commands from `cwd` with no terminal, unless `on_terminal` is used."""

    cwd: Path
    environ: dict[str, str] = field(default_factory=dict)

    def env(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(ROOT), "TERM": "xterm", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
        return {**os.environ, **own, **self.environ}

    def __call__(self, *arguments: str | bytes, command: tuple[str, ...] = MODULE) -> Done:
        done = subprocess.run(
            [*command, *arguments],
            cwd=self.cwd,
            env=self.env(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WITHIN,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def python(self, prelude: str, *arguments: str) -> Done:
        """Run a command in a process that `prelude`, Python code, has prepared."""
        code = f"import os, sys\n{prelude}\nfrom envstack.cli import main\nmain()"
        return self(*arguments, command=(sys.executable, "-c", code))

    def start(
        self, *arguments: str, command: tuple[str, ...] = MODULE, **streams: Any
    ) -> subprocess.Popen[bytes]:
        """Start a command and go on."""
        return subprocess.Popen([*command, *arguments], cwd=self.cwd, env=self.env(), **streams)

    @contextmanager
    def on_terminal(self, *arguments: str, command: tuple[str, ...] = MODULE) -> Iterator[Terminal]:
        """Run a command on a terminal of its own."""
        own, its = pty.openpty()
        with ExitStack() as stack:
            stack.callback(os.close, own)
            try:
                process = self.start(
                    *arguments,
                    command=command,
                    stdin=its,
                    stdout=its,
                    stderr=its,
                    start_new_session=True,
                )
            finally:
                os.close(its)
            stack.enter_context(process)
            stack.callback(_kill, process)
            yield Terminal(own, process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()


@dataclass
class Terminal:
    """A terminal with one command on it."""

    descriptor: int
    process: subprocess.Popen[bytes]
    said: str = ""

    def read_until(self, text: str) -> str:
        """Return all that was said so far, as soon as `text` is in it."""
        while text not in self.said:
            assert self._read(), f"it ended without {text!r}: {self.said!r}"
        return self.said

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def finish(self) -> Done:
        """Wait for the end; both streams are one here."""
        while self._read():
            pass
        return Done(self.process.wait(WITHIN), self.said.replace("\r\n", "\n"), "")

    def _read(self) -> bool:
        ready, _, _ = select.select([self.descriptor], [], [], WITHIN)
        assert ready, f"it says nothing more: {self.said!r}"
        try:
            data = os.read(self.descriptor, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # what a terminal says when nobody has it open any more
                raise
            data = b""
        self.said += data.decode()
        return bool(data)


class FakeDaemon:
    """Answers from `answers`: method -> result, error, or a function of the call that returns one.

    `calls` are the methods and params that were asked, in order.
    """

    def __init__(self, home: Path) -> None:
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[str, Json]] = []
        self._home = home
        self._asked = threading.Condition()
        self._places = places({"ENVSTACK_HOME": str(home)}, os.geteuid())
        self._stack = ExitStack()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._home.mkdir(mode=0o700)
        self._listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        self._listener.bind(self._places.socket)
        self._listener.listen()
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:  # it grows while the first one, which accepts, goes on
            thread.join(WITHIN)
            assert not thread.is_alive()
        self._stack.close()

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.calls]

    def wait_for(self, method: str) -> None:
        """Return as soon as `method` was asked."""
        with self._asked:
            assert self._asked.wait_for(lambda: method in self.methods, WITHIN)

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # it was shut down
            connection.settimeout(WITHIN)
            self._begin(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, suppress(ConnectionError):
            for line in lines:
                message = messages.decode_request(line)
                with self._asked:
                    self.calls.append((message.method, message.params))
                    self._asked.notify_all()
                if isinstance(message, Request):
                    call = FakeCall(message, connection, lines)
                    connection.sendall(messages.encode(self._answer(call)))

    def _answer(self, call: FakeCall) -> Response | Failure:
        result = self._result(call)
        if callable(result):
            result = result(call)
        if isinstance(result, EnvstackError):
            return messages.failure(call.request.id, result)
        return Response(call.request.id, result)

    def _result(self, call: FakeCall) -> Any:
        if call.request.method != messages.HELLO:
            return self.answers[call.request.method]
        return {
            "protocol": messages.PROTOCOL,
            "version": __version__,
            "pid": os.getpid(),
            "mount_ns": mount_namespace(),
            "home": str(self._home),
        }


@dataclass(frozen=True, slots=True)
class FakeCall:
    """A request that is being answered."""

    request: Request
    connection: socket.socket
    lines: Any

    @property
    def peer_pid(self) -> int:
        return peer_of(self.connection).pid

    def progress(self, message: str, done: int | None = None, total: int | None = None) -> None:
        told = messages.progress(self.request.id, messages.Progress(message, done, total))
        self.connection.sendall(messages.encode(told))

    def output(self, text: str) -> None:
        told = messages.output(self.request.id, messages.Output(text))
        self.connection.sendall(messages.encode(told))

    def tell(self, *events: Json) -> None:
        """Send feed objects, of which this is the subscription."""
        for event in events:
            params = {"subscription": self.request.id, **event}
            told = Notification(messages.EVENT, params)
            self.connection.sendall(messages.encode(told))

    def die(self) -> None:
        """Close the connection without an answer, as a daemon does that is killed."""
        self.connection.shutdown(socket.SHUT_RDWR)

    def wait_for_end(self) -> None:
        """Return when the client is gone."""
        with suppress(ConnectionError):
            assert self.lines.read() == b""

    def wait_for_cancel(self) -> None:
        message = messages.decode_request(self.lines.readline())
        assert message == Notification(messages.CANCEL, {"id": self.request.id})


def read(process: subprocess.Popen[bytes], count: int) -> list[str]:
    """Return the next lines of its standard output."""
    assert process.stdout is not None
    return [process.stdout.readline().decode().removesuffix("\n") for _ in range(count)]


def interrupt(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)


def checkpoint(number: int = 1, **other: Any) -> Json:
    """Return a checkpoint as the daemon shows it."""
    row: Json = {
        "id": f"{number:08x}{number:08x}",
        "parent": None,
        "message": f"number {number}",
        "tag": None,
        "created_at": "2026-01-02T03:04:05.000006Z",
        "mode": "rotate",
        "changes": {"added": 3, "modified": 1, "deleted": 2},
        "durable": True,
        "damaged": False,
    }
    return {**row, **other}


def logged(number: int = 1, **other: Any) -> Json:
    """Return a row of the log."""
    return {**checkpoint(number), "head": False, "sealed": True, **other}


def holder(**other: Any) -> Json:
    row = {
        "pid": 4711,
        "command": "vim",
        "user": "ann",
        "holds": [{"what": "cwd", "path": "/p/merged/src"}, {"what": "file", "path": "/p/a"}],
    }
    return {**row, **other}


def status(**other: Any) -> Json:
    """Return an environment as the daemon shows it."""
    row: Json = {
        "id": "00ff00ff00ff00ff",
        "name": "web",
        "project": "/p",
        "stack": "/p/envstack.yaml",
        "mount": "/p/.envstack/merged",
        "state": "up",
        "reason": None,
        "hint": "",
        "backend": "overlayfs",
        "head": None,
        "layers": [{"name": "base", "id": "aa", "kind": "dir"}],
        "upper": "abcd",
        "dirty": False,
        "cursor": None,
        "holders": [],
        "left_below": [],
        "drift": None,
    }
    return {**row, **other}


def listed(**other: Any) -> Json:
    """Return a row of `ls`."""
    kept = {"size": 4096, "size_exact": True, "checkpoints": 2}
    there = {"stack_exists": True, "project_exists": True}
    return {**status(), **kept, **there, **other}


def drifted(**other: Any) -> Json:
    """Return a layer that changed below the mount."""
    row = {
        "layer": "aa",
        "name": "base",
        "reason": "changed",
        "paths": [{"path": "src/a"}, {"path": "b"}],
        "entries_before": 7,
        "entries_now": 8,
    }
    return {**row, **other}


def ready(seq: int = 0, **other: Any) -> Json:
    """Return the first object of a feed, after which `seq` + 1 comes next."""
    where = {"env": "web", "mount": "/p/.envstack/merged", "head": None, "fresh": False}
    return event("ready", seq, **{**where, **other})


def event(name: str, seq: int, **facts: Any) -> Json:
    """Return an object of a feed."""
    return {"event": name, "cursor": f"e.1.{seq}", "seq": seq, **facts}


def changed(seq: int, *paths: str, change: str = "modified") -> Json:
    """Return an event of files that changed."""
    rows = [{"path": path, "change": change, "kind": "file"} for path in paths]
    return event("changes", seq, changes=rows)


def brought(**other: Any) -> Json:
    """Return the answer to `up`."""
    return {**status(), "outdated": [], "saved": None, "left": None, **other}


def answers() -> Mapping[str, Any]:
    """Return one good answer to each method."""
    rolled = {"to": "base", "saved": None, "mode": "swap", "changes": None, "duration_ms": 0.5}
    in_place: Json = {
        "reason": "nobody is inside",
        "orphaned": [],
        "late": [],
        "saved_meanwhile": None,
    }
    return {
        "env.up": brought(),
        "env.down": status(state="down"),
        "env.status": status(),
        "env.glance": status(),
        "env.list": [listed()],
        "env.checkpoint": {
            **checkpoint(changes=None),
            "reason": "nobody is inside",
            "unstable": [],
            "duration_ms": 0.6,
            "stranded": [],
            "drift": None,
        },
        "env.rollback": {**rolled, **in_place, "stranded": [], "paths": [], "drift": None},
        "env.log": [logged()],
        "env.diff": [{"path": "a", "change": "added", "kind": "file"}],
        "env.compare": {"trees": [], "changes": []},
        "feed.sync": {"cursor": "e.1.7", "seq": 7},
        "daemon.status": {
            "pid": 1,
            "version": __version__,
            "home": "/h",
            "socket": "/h/daemon.sock",
            "log": "/h/daemon.log",
            "environments": ["web"],
        },
        "daemon.stop": {"pid": 1},
    }
