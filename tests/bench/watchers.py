"""Programs that print a line when something in a tree changes: ours and its peers.

Each is started on a tree, is ready when it says so, and tells when it first named a file.
"""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from tests.bench import timing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

PROGRAMS = ("inotifywait", "watchman")


class Watcher:
    """Something that tells a line at a time; each is read as it comes, in a thread."""

    def __init__(self, lines: IO[bytes], is_ready: Callable[[bytes], bool]) -> None:
        """Read until `is_ready` says yes to a line, and from then on look for names."""
        self._sought: bytes | None = None
        self._found = threading.Condition()
        self._seen_at: float | None = None
        said = list(itertools.takewhile(lambda line: not is_ready(line), lines))
        self._reader = threading.Thread(target=self._read, args=[lines])
        self._reader.start()
        self.said_before = b"".join(said).decode()

    def seconds(self, name: str, act: Callable[[], object], within: float) -> float | None:
        """Act and return the seconds until the first line that holds `name`.

        None if no such line comes within so many seconds after the act.
        """
        with self._found:
            self._sought, self._seen_at = name.encode(), None
        began = time.perf_counter()
        act()
        with self._found:
            self._found.wait_for(lambda: self._seen_at is not None, within)
            return None if self._seen_at is None else self._seen_at - began

    def join(self) -> None:
        """Wait for the end of the lines."""
        self._reader.join()

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            sought = self._sought
            if sought is not None and sought in line:
                with self._found:
                    self._sought, self._seen_at = None, time.perf_counter()
                    self._found.notify_all()


@contextmanager
def inotifywait(tree: Path) -> Iterator[Watcher]:
    """The floor: every event of the kernel as a line, and nothing known of what it means."""
    command = ["inotifywait", "--monitor", "--recursive", "--format", "%w%f", str(tree)]
    with _program(command, lambda line: b"Watches established" in line) as watcher:
        yield watcher


@contextmanager
def envstack(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[Watcher]:
    """`envstack watch --json`, as `command` has it."""
    with _program(command, lambda line: b'"ready"' in line, environ) as watcher:
        yield watcher


@contextmanager
def watchman(place: Path, tree: Path, settle: int | None = None) -> Iterator[Watcher]:
    """A subscription of Watchman with a server of its own; `settle` in ms, None as shipped.

    Over the server's socket, as editors have it: its own client keeps lines back.
    """
    place.mkdir()
    config = tree / ".watchmanconfig"
    config.write_text(json.dumps({} if settle is None else {"settle": settle}))
    files = [f"--{name}={place / name}" for name in ("sockname", "logfile", "statefile", "pidfile")]
    program = ["watchman", "--no-pretty", *files]
    subscribe = ["subscribe", str(tree), "bench", {"fields": ["name"]}]
    try:
        timing.output([*program, "watch", str(tree)])
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(place / "sockname"))
            connection.sendall(json.dumps(subscribe).encode() + b"\n")
            with connection.makefile("rb") as lines:
                # The answer to `subscribe` comes first, and then all files that are there.
                watcher = Watcher(lines, lambda line: b'"is_fresh_instance":true' in line)
                try:
                    yield watcher
                finally:
                    connection.shutdown(socket.SHUT_RDWR)
                    watcher.join()
    finally:
        timing.output([*program, "shutdown-server"])
        config.unlink()
        shutil.rmtree(place)


@contextmanager
def _program(
    command: Sequence[str],
    is_ready: Callable[[bytes], bool],
    environ: Mapping[str, str] | None = None,
) -> Iterator[Watcher]:
    """Start a program that tells what it has to tell on either of its streams."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ
    )
    assert process.stdout is not None
    watcher = Watcher(process.stdout, is_ready)
    try:
        if process.poll() is not None:
            raise RuntimeError(f"{command} ended: {watcher.said_before}")
        yield watcher
    finally:
        process.terminate()
        watcher.join()
        process.stdout.close()
        process.wait()


def flat_out(tree: Path, files: int) -> list[str]:
    """Return the command of a storm: so many files, made as fast as one program can."""
    return [*_WRITER, str(tree), str(files), "0"]


@contextmanager
def in_a_storm(tree: Path) -> Iterator[None]:
    """Make or rewrite files, somewhat under a thousand a second, until the context ends."""
    with subprocess.Popen([*_WRITER, str(tree), str(1 << 60), "0.001"]) as writer:
        try:
            yield
        finally:
            writer.terminate()


_WRITER = (
    "python3",
    "-c",
    """
import os, sys, time
tree, files, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
for number in range(files):
    place = f"{tree}/storm/{number // 250 % 1000}"
    if number % 250 == 0:
        os.makedirs(place, exist_ok=True)
    with open(f"{place}/{number % 250}", "w") as file:
        file.write("x")
    if pause:
        time.sleep(pause)
""",
)
