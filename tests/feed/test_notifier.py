"""What a notifier was told is had once, and nothing gets lost between two collections."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from envstack.feed.hints import Touch
from envstack.feed.notifier import Notifier
from envstack.linux import inotify, proc
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = pytest.mark.kernel

STORM = """
import os, sys, time
for number in range(3_000):
    os.mknod(f"{sys.argv[1]}/{number}")
    time.sleep(0.0005)
"""


@pytest.fixture(autouse=True)
def _deaf() -> Iterator[None]:
    """The bell ends a process that does not block it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    yield
    while signal.sigtimedwait({signal.SIGIO}, 0):
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_whoever_collects_all_the_time_misses_nothing(project: Path) -> None:
    """A collection that finds nothing must not throw away what comes just then."""
    with closing(Notifier(os.fsencode(project))) as notifier:
        with subprocess.Popen([sys.executable, "-c", STORM, project]) as storm:
            seen: set[bytes] = set()
            while storm.poll() is None:
                seen.update(notifier.collect().added)
        until(notifier.is_settled, "the last event")
        seen.update(notifier.collect().added)
        assert seen == {b"%d" % number for number in range(3_000)}


def test_what_was_collected_is_not_collected_again(project: Path) -> None:
    with closing(Notifier(os.fsencode(project))) as notifier:
        (project / "file").touch()
        until(notifier.is_settled, "the event")
        collected = notifier.collect()
        assert collected.touched == {b"file": Touch.TREE}
        assert collected.added == (b"file",)
        assert not notifier.collect().touched


def test_once_it_has_settled_a_new_directory_is_watched(project: Path) -> None:
    with closing(Notifier(os.fsencode(project))) as notifier:
        for number in range(300):
            inner = project / str(number)
            inner.mkdir()
            until(notifier.is_settled, "the event")
            assert inner.stat().st_ino in (notifier.watched() or set())


def test_it_covers_what_is_there_when_it_is_made(project: Path) -> None:
    (project / "inner").mkdir()
    with closing(Notifier(os.fsencode(project))) as notifier:
        assert notifier.covered == {project.stat().st_ino, (project / "inner").stat().st_ino}


def test_when_it_is_closed_its_watches_are_given_back(project: Path) -> None:
    threads, instances = proc.threads(os.getpid()), inotify.instances()
    Notifier(os.fsencode(project)).close()
    assert inotify.instances() == instances
    assert proc.threads(os.getpid()) == threads


def test_what_is_not_there_cannot_be_watched(project: Path) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        Notifier(os.fsencode(project / "missing"))
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize("limit", ["max_user_watches", "max_user_instances"])
def test_a_limit_that_is_reached_is_an_error_and_leaves_nothing(
    project: Path, limited: Callable[[str, int], AbstractContextManager[None]], limit: str
) -> None:
    for number in range(3):
        (project / str(number)).mkdir()
    descriptors = os.listdir("/proc/self/fd")
    with limited(limit, 1 if limit == "max_user_watches" else 0), pytest.raises(OSError, match=" "):
        Notifier(os.fsencode(project))
    until(lambda: os.listdir("/proc/self/fd") == descriptors, "the end of the attempt")


def test_notifiers_made_at_once_do_not_take_each_others_instance(
    directory: Callable[[], Path],
) -> None:
    made: dict[Path, Notifier] = {}
    uppers = [directory() for _ in range(8)]
    start = threading.Barrier(len(uppers))

    def make(upper: Path) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
        start.wait()
        made[upper] = Notifier(os.fsencode(upper))

    threads = [threading.Thread(target=make, args=(upper,)) for upper in uppers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert {upper: made[upper].watched() for upper in uppers} == {
            upper: {upper.stat().st_ino} for upper in uppers
        }
    finally:
        for notifier in made.values():
            notifier.close()
