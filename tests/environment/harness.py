"""The service inside the test's own process, where each step can be watched, and its bystanders."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import select
import subprocess
import sys
import threading
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from envstack.daemon.calls import Call
from envstack.daemon.service import Service
from envstack.environment.steps import Step
from envstack.errors import EnvstackError
from envstack.linux.launcher import Launcher
from envstack.linux.mountinfo import read_mounts, stack_at
from envstack.rpc import shapes
from envstack.rpc.messages import Request
from tests.support import trees, waiting, ways
from tests.support.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envstack.environment.context import Context, Job

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
WITHIN = 20.0
_BOOT_ID = "/proc/sys/kernel/random/boot_id"

LOCKED = [
    *((ways.NEWER, step) for step in (Step.LOCK, Step.BENEATH, Step.DETACH)),
    *((ways.OLDER, step) for step in (Step.LOCK, Step.DETACH)),
]
"""The steps of an exchange from the first lock on, while the old mount is there; in both ways."""


class Engine(Sandbox):
    """A sandbox without a daemon process: what the daemon serves is served in a thread here.

    `at` holds what is to be done when a step is announced, in the thread that takes the step.
    """

    def __init__(
        self,
        home: Path,
        project: Path,
        layers: dict[str, Any],
        mount: str = ".envstack/merged",
        way: str = ways.NEWER,
    ) -> None:
        super().__init__(home, project, layers, mount)
        self._choose = ways.CHOICES[way]
        self.at: dict[Step, Callable[[], object]] = {}
        self.asker = os.getpid()
        self._running: ExitStack | None = None
        self._outstanding = 0
        self._count_lock = threading.Lock()

    def call(self, method: str, **params: object) -> Any:
        """Call any method of the service. Raises what the daemon would tell the client."""
        if self._running is None:
            self.start()
        answer = self._portal.call(self._serve, method, params)
        return json.loads(json.dumps(answer))

    def start(self) -> None:
        """Start the service, which recovers. Raises what keeps the daemon from starting."""
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            launcher = stack.enter_context(Launcher())
            self.service = Service(os.fsencode(self.home), launcher, self._announce, self._choose)
            stack.enter_context(self._portal.wrap_async_context_manager(self.service))
            counted = dataclasses.replace(self.context, defer=self._counting(self.context.defer))
            self.service.access.ctx = counted
            self._running = stack.pop_all()

    def stop(self) -> None:
        """End the service as the end of its process would, mounts left as they are."""
        if self._running is not None:
            self.settle()
            kept = self.context
            self._running.close()
            self._running = None
            for env in list(kept.kept):
                kept.release(env)

    @property
    def context(self) -> Context:
        """What the sequences work with."""
        return self.service.access.ctx

    def settle(self) -> None:
        """Wait until all work in the background is done."""
        waiting.until(lambda: self._outstanding == 0, "the end of background work", WITHIN)

    def until_sealed(self, checkpoint: str) -> None:
        """Wait until `log` says that this checkpoint is sealed."""
        waiting.until(lambda: self.row(checkpoint)["sealed"], "sealing", WITHIN)

    def row(self, checkpoint: str) -> Json:
        """Return what `log` says of one checkpoint."""
        return next(row for row in self.log() if row["id"] == checkpoint)

    def layer_of(self, checkpoint: str) -> Path:
        """Return the directory of the topmost layer of a checkpoint."""
        for env in self.context.store.db.environments():
            for row in self.context.store.db.checkpoints(env.id):
                if row.id == checkpoint:
                    return Path(os.fsdecode(self.context.store.trees(row.chain)[0]))
        raise AssertionError(f"no checkpoint {checkpoint}")

    @property
    def upper(self) -> Path:
        """The directory of the upper."""
        return self.home / "layers" / str(self.status()["upper"]) / "fs"

    def write(self, name: str, content: str = "written\n") -> None:
        """Write a file of the merged tree."""
        (self.merged / name).write_text(content)

    def kill_daemon(self) -> None:
        raise NotImplementedError("there is no process to kill")

    def close(self) -> None:
        """Delete every environment of the store, and stop."""
        self.at.clear()
        if self._running is None and (self.home / "meta.db").exists():
            self.start()
        if self._running is not None:
            for row in self.environments():
                self.call("env.down", stack=row["stack"], purge=True)
        self.stop()
        assert not mounts_at(self.merged), f"{self.merged} is still mounted"

    def stop_daemon(self) -> None:
        self.stop()

    def __enter__(self) -> Self:
        return self

    async def _serve(self, method: str, params: Json) -> Any:
        outbox, inbox = anyio.create_memory_object_stream[bytes](math.inf)
        with outbox, inbox:
            call = Call(Request(1, method, params), self.asker, outbox)
            return await self.service.methods()[method](call, params)

    def _announce(self, step: Step) -> None:
        if step in self.at:
            self.at[step]()

    def _counting(self, defer: Callable[[Job], None]) -> Callable[[Job], None]:
        def count(by: int) -> None:
            with self._count_lock:
                self._outstanding += by

        def counting(job: Job) -> None:
            # Once a job: one that failed is tried again.
            outstanding = [1]

            def counted() -> bool:
                done = True
                try:
                    done = job()
                finally:
                    if done and outstanding:
                        count(-outstanding.pop())
                return done

            count(1)
            defer(counted)

        return counting


_BYSTANDER = """
import ctypes, errno, fcntl, json, mmap, os, select, socket, sys
from envstack.linux import syscalls
known = dict(globals())
for line in sys.stdin:
    try:
        exec(json.loads(line), known)
        answer = known.pop("answer", None)
    except OSError as error:
        answer = errno.errorcode[error.errno]
    print(json.dumps(answer), flush=True)
"""


class Bystander:
    """Another process, which does as it is told; `merged` is known to it as `T`."""

    def __init__(self, merged: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BYSTANDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that select(2) below speaks of all that was not read
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.pid = self._process.pid
        self.do(f"T = {os.fspath(merged)!r}")

    def do(self, code: str) -> Any:
        """Run `code` there; return what it calls `answer`, or the name of the error it met."""
        self.begin(code)
        return self.end()

    def begin(self, code: str) -> None:
        """Let it run `code` until `end`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code).encode() + b"\n")
        self._process.stdin.flush()

    def end(self) -> Any:
        """Return the answer to what was begun."""
        stdout = self._process.stdout
        assert stdout is not None
        assert select.select([stdout], [], [], WITHIN)[0], "the bystander answers"
        line = stdout.readline()
        assert line, "the bystander lives"
        return json.loads(line)

    def enter_namespace(self, propagation: str) -> None:
        """Move it into a mount namespace of its own: "private" or "slave" to this one."""
        flag = {"private": 1 << 18, "slave": 1 << 19}[propagation]
        self.do(
            "syscalls.unshare(syscalls.CLONE_NEWNS);"
            f"syscalls.set_propagation(b'/', syscalls.MS_REC | {flag})"
        )

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@dataclasses.dataclass(slots=True)
class Refusal:
    """What a refused request was told."""

    message: str = ""
    hint: str = ""
    holders: list[Json] = dataclasses.field(default_factory=list)

    @property
    def holds(self) -> set[tuple[int | None, str]]:
        """Who holds what, as (pid, what)."""
        return {(row["pid"], hold["what"]) for row in self.holders for hold in row["holds"]}


@contextmanager
def refused(exit_code: int, kind: str | None = None) -> Iterator[Refusal]:
    """Expect a refusal with this exit code, and kind; what it says can be read afterwards."""
    refusal = Refusal()
    with pytest.raises(EnvstackError) as caught:
        yield refusal
    error = caught.value
    assert error.exit_code == exit_code, f"exit code {error.exit_code}: {error.message}"
    assert kind in (None, error.kind)
    refusal.message, refusal.hint = error.message, error.hint
    refusal.holders = shapes.error(error).get("holders", [])


def mounts_at(point: Path) -> list[str]:
    """Return the sources of what is mounted at `point`, the visible one last."""
    mounts = stack_at(read_mounts(), os.fsencode(point))
    return [os.fsdecode(mount.source) for mount in mounts]


@contextmanager
def another_boot(directory: Path) -> Iterator[None]:
    """Let the machine have been started anew; `directory` is written to."""
    fresh = directory / "boot_id"
    fresh.write_text(f"{uuid.uuid4()}\n")
    subprocess.run(["mount", "--bind", fresh, _BOOT_ID], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", _BOOT_ID], check=True)


@contextmanager
def nothing_changes(engine: Engine) -> Iterator[None]:
    """Expect the same tree, history and mount table afterwards; the background may work on."""

    def seen() -> object:
        rows = [{**row, "changes": None, "sealed": None, "durable": None} for row in engine.log()]
        table = [(mount.id, mount.point, mount.options) for mount in read_mounts()]
        return trees.snapshot(engine.merged), rows, table

    before = seen()
    yield
    assert seen() == before
