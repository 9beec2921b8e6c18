"""What is in the upper is waited for in the merged tree."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from envstack.linux import syscalls
from envstack.overlay import mount as overlay
from envstack.overlay.shown import await_shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.kernel

_FOR = 1.5
"""Seconds; without the wait it takes some hundredths of one until something is missing."""

_RENAMES = """
import os, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.chdir(sys.argv[1])
print(flush=True)
while True:
    os.rename("here", "there")
    os.rename("there", "here")
"""
"""Loses its processor to everybody else, in the middle of a rename as well."""

_INTERRUPTS = """
import time
print(flush=True)
while True:
    until = time.monotonic() + 0.00005
    while time.monotonic() < until:
        pass
    time.sleep(0.00002)
"""


@pytest.fixture
def merged(directory: Callable[[], Path]) -> Iterator[Path]:
    """An overlay; its upper is `upper` beside it."""
    root = directory()
    for name in ("lower", "upper", "work", "merged"):
        (root / name).mkdir()
    lower, upper, work = (os.fsencode(root / name) for name in ("lower", "upper", "work"))
    mount = overlay.build(overlay.Overlay(b"shown", (lower,), upper, work), upper)
    overlay.attach(mount, os.fsencode(root / "merged"))
    os.close(mount)
    yield root / "merged"
    syscalls.umount(os.fsencode(root / "merged"))


@contextmanager
def running(program: str, *arguments: str | Path) -> Iterator[None]:
    """Run a program on the first processor that there is, once it has begun."""
    first = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, {first})
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


def test_a_reader_finds_under_its_new_name_what_the_upper_has_there(merged: Path) -> None:
    below = merged / "directory"
    below.mkdir()
    (below / "here").touch()
    hidden = merged.parent / "upper" / "directory" / "there"
    looks, missed, until = 0, 0, time.monotonic() + _FOR
    with ExitStack() as stack:
        stack.enter_context(running(_RENAMES, below))
        stack.enter_context(running(_INTERRUPTS))
        while time.monotonic() < until:
            seen = stamp(hidden)
            if seen is not None:
                await_shown(os.fsencode(merged), [b"", b"directory"])
                looks += 1
                missed += stamp(below / "there") is None and stamp(hidden) == seen
    assert looks > 100
    assert missed == 0


def test_directories_that_are_gone_or_covered_are_passed_over(merged: Path) -> None:
    covered = merged / "covered"
    covered.mkdir()
    (merged / "file").touch()
    syscalls.mount(b"none", os.fsencode(covered), b"tmpfs", 0, b"")
    try:
        (covered / "below").mkdir()
        await_shown(os.fsencode(merged), [b"", b"covered/below", b"file/below", b"gone"])
    finally:
        syscalls.umount(os.fsencode(covered))


def stamp(path: Path) -> int | None:
    """Return the time of the last rename of a file, None where it is not there."""
    try:
        return path.lstat().st_ctime_ns
    except FileNotFoundError:
        return None
