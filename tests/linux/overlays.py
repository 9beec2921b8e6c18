"""Overlays for the tests of this room, and processes that hold them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from envstack.linux.holders import find_holders
from envstack.linux.mountinfo import Mount, read_mounts, topmost_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = frozenset({os.getpid()})

PRELUDE = """
import ctypes, fcntl, mmap, os, socket, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
"""
READY = "\nprint('ready', flush=True); sys.stdin.read()"


@contextmanager
def process(*command: str, cwd: Path | None = None) -> Iterator[int]:
    """Run a command that prints "ready" and ends with its standard input."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=cwd, stdin=pipe, stdout=pipe) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert select.select([child.stdout], [], [], 30)[0], "it got ready"
        assert child.stdout.readline() == b"ready\n"
        yield child.pid
        child.stdin.close()
        child.wait(10)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", PRELUDE + code + READY)


def mount_on(point: Path, *arguments: str | Path) -> None:
    subprocess.run(["mount", "-i", *arguments, point], check=True)


def mount_at(point: Path) -> Mount:
    found = topmost_at(read_mounts(), os.fsencode(point))
    assert found is not None
    return found


def held(mount: Mount) -> list[tuple[int | None, str, bytes]]:
    """Return all holds as (pid, kind, path), in order."""
    return [
        (holder.pid, str(hold.what), hold.path)
        for holder in find_holders(mount, ignore=NOBODY)
        for hold in holder.holds
    ]
