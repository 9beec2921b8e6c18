"""What is known of an inotify instance besides its events."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from envstack.linux import inotify, proc
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IN_CREATE = 0x100
EVENT_WITH_SHORT_NAME = 32


@contextmanager
def watching(*directories: Path) -> Iterator[int]:
    """Yield an inotify instance that nobody reads, with a watch on each directory."""
    libc = ctypes.CDLL(None, use_errno=True)
    instance = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    assert instance >= 0, os.strerror(ctypes.get_errno())
    try:
        for directory in directories:
            assert libc.inotify_add_watch(instance, os.fsencode(directory), IN_CREATE) > 0
        yield instance
    finally:
        os.close(instance)


def test_an_instance_is_told_from_other_descriptors(project: Path) -> None:
    before = inotify.instances()
    with watching(project) as instance, (project / "file").open("w"):
        assert inotify.instances() - before == {instance}
    assert inotify.instances() == before


def test_what_is_watched_is_told_by_inode_number(project: Path) -> None:
    inner = project / "inner"
    inner.mkdir()
    with watching(project, inner) as instance:
        assert inotify.watched(instance) == {project.stat().st_ino, inner.stat().st_ino}
        inner.rmdir()
        assert inotify.watched(instance) == {project.stat().st_ino}


def test_each_event_that_nobody_reads_adds_to_the_queue(project: Path) -> None:
    with watching(project) as instance:
        assert inotify.queued_bytes(instance) == 0
        (project / "one").touch()
        (project / "two").touch()
        assert inotify.queued_bytes(instance) == 2 * EVENT_WITH_SHORT_NAME
        assert inotify.queued_bytes(instance) >= 2 * inotify.EVENT_BYTES


def test_an_event_wakes_the_thread_that_it_is_to_ring_at_and_no_other(project: Path) -> None:
    ready = threading.Event()
    heard: list[bool] = []

    def listen(instance: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
        inotify.ring(instance, threading.get_native_id())
        ready.set()
        heard.append(signal.sigtimedwait({signal.SIGIO}, 10) is not None)
        heard.append(signal.sigtimedwait({signal.SIGIO}, 0) is not None)

    with watching(project) as instance:
        thread = threading.Thread(target=listen, args=(instance,))
        thread.start()
        assert ready.wait(10)
        (project / "file").touch()
        thread.join()
    assert heard == [True, False]


def test_what_is_no_instance_cannot_ring(project: Path) -> None:
    closed = os.open(project, os.O_RDONLY)
    os.close(closed)
    with pytest.raises(OSError, match="Bad file descriptor"):
        inotify.ring(closed, threading.get_native_id())


def test_the_limit_is_the_one_that_the_kernel_shows() -> None:
    assert inotify.max_queued_events() >= 1


def test_a_thread_that_waits_is_asleep_and_one_that_has_ended_is_too() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    number = thread.native_id
    assert number is not None
    until(lambda: proc.is_asleep(number), "the thread waits")
    assert proc.is_thread(number)
    end.set()
    thread.join()
    until(lambda: not proc.is_thread(number), "the thread has ended")
    assert proc.is_asleep(number)


def test_a_thread_that_runs_is_not_asleep() -> None:
    assert not proc.is_asleep(threading.get_native_id())
