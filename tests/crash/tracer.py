"""strace(1) on a daemon that runs: it lists system calls, or kills at the N-th of one."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import needs, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOUNT_CALLS = (
    *("fsopen", "fsconfig", "fsmount", "fspick", "open_tree", "move_mount", "mount_setattr"),
    *("umount2", "mount"),
)
FILE_CALLS = (
    *("pwrite64", "fdatasync", "fsync", "syncfs", "ftruncate"),
    *("mkdir", "rename", "unlink", "unlinkat"),
)


@contextmanager
def killing(pid: int, call: str, nth: int) -> Iterator[None]:
    """Kill process `pid` when a thread of it enters `call` for the `nth` time from now on.

    SIGKILL on entry means that this call is not executed (ptrace(2)).
    """
    inject = f"inject={call}:signal=KILL:when={nth}"
    with _attached(pid, ["-o", os.devnull, "-e", f"trace={call}", "-e", inject]):
        yield


@contextmanager
def listing(pid: int, calls: Sequence[str], output: Path) -> Iterator[None]:
    """Write what the process calls to `output`; `called` reads it afterwards."""
    with _attached(pid, ["-o", str(output), "-e", f"trace={','.join(calls)}"]):
        yield


def called(output: Path) -> list[str]:
    """Return the names of the calls in a listing, in order."""
    words = [line.split(maxsplit=1)[1] for line in output.read_text().splitlines()]
    return [word.partition("(")[0] for word in words if word[0].isalpha()]


@contextmanager
def _attached(pid: int, arguments: list[str]) -> Iterator[None]:
    command = [needs.program("strace"), "-f", "-qq", "-p", str(pid), *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as strace:
        try:
            waiting.until(lambda: _is_traced(pid, strace), "strace on every thread", within=30)
            yield
        finally:
            strace.kill()  # asked to end, it waits for every thread, and may do so for ever


def _is_traced(pid: int, strace: subprocess.Popen[bytes]) -> bool:
    if strace.poll() is not None:
        needs.lack("strace that may attach to a process (ptrace_scope, CAP_SYS_PTRACE)")
    tracer = f"TracerPid:\t{strace.pid}\n"
    try:
        return all(
            tracer in status.read_text() for status in Path(f"/proc/{pid}/task").glob("*/status")
        )
    except (FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
        return False
