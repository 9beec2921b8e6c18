"""What changes in an upper is hinted at, or doubted, whatever the kernel and watchfiles drop."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from envstack.errors import Damaged
from envstack.feed.hints import Hints, Touch
from envstack.feed.watcher import Watcher
from envstack.linux import inotify, proc
from tests.feed.reader import Reader
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = pytest.mark.kernel


def test_the_first_hint_is_the_doubt_of_everything(
    reading: Callable[[Path], Reader], project: Path
) -> None:
    (project / "before").touch()
    reader = reading(project)
    assert reader.hints[0].doubt
    reader.await_truth()


def test_a_change_is_told_by_its_path_and_how_much_it_touches(
    reading: Callable[[Path], Reader], project: Path
) -> None:
    (project / "dir").mkdir()
    (project / "dir" / "file").touch()
    reader = reading(project)
    (project / "dir" / "new").touch()
    os.chmod(project / "dir" / "file", 0o600)
    reader.await_truth()
    told = {path: touch for hints in reader.hints for path, touch in hints.touched.items()}
    assert told[b"dir/new"] is Touch.TREE
    assert told[b"dir/file"] is Touch.ENTRY
    assert len(reader.doubts) == 1


def test_what_happens_to_the_root_itself_is_told(
    reading: Callable[[Path], Reader], project: Path
) -> None:
    reader = reading(project)
    project.chmod(0o711)
    until(lambda: reader.touched(b"."), "a hint at the root")
    reader.await_truth()


def test_directories_made_and_filled_in_one_go_are_found_by_hints_alone(
    reading: Callable[[Path], Reader], project: Path
) -> None:
    reader = reading(project)
    for number in range(200):
        inner = project / str(number) / "a" / "b"
        inner.mkdir(parents=True)
        (inner / "file").write_text("content")
    reader.await_truth()
    assert len(reader.doubts) == 1


def test_two_thousand_of_them_are_found(reading: Callable[[Path], Reader], project: Path) -> None:
    reader = reading(project)
    for number in range(2_000):
        inner = project / str(number) / "a" / "b"
        inner.mkdir(parents=True)
        (inner / "file").write_text("content")
    reader.await_truth(within=60)


def test_no_hint_is_lost_in_a_long_storm(reading: Callable[[Path], Reader], project: Path) -> None:
    (project / "dir").mkdir()
    reader = reading(project)
    storm = (
        "import os, sys\n"
        "for number in range(10_000):\n"
        "    open(f'{sys.argv[1]}/{number}', 'w').close()\n"
        "    if number > 20: os.unlink(f'{sys.argv[1]}/{number - 20}')\n"
    )
    subprocess.run([sys.executable, "-c", storm, project / "dir"], check=True)
    reader.await_truth(within=60)


def test_a_link_is_not_followed_wherever_it_leads(
    reading: Callable[[Path], Reader], project: Path, directory: Callable[[], Path]
) -> None:
    (project / "inner").mkdir()
    (project / "root").symlink_to("/")
    (project / "inner" / "other").symlink_to(directory())
    before = inotify.instances()
    reader = reading(project)
    (project / "later").symlink_to("/usr")
    (project / "inner" / "last").touch()
    reader.await_truth()
    (instance,) = inotify.instances() - before
    ours = {path.stat().st_ino for path in (project, project / "inner")}
    assert inotify.watched(instance) == ours


def test_a_name_that_is_not_utf_8_hides_neither_itself_nor_others(
    reading: Callable[[Path], Reader], project: Path
) -> None:
    reader = reading(project)
    for number in range(3):
        odd = os.path.join(os.fsencode(project), b"odd-\xff-%d" % number)
        os.mkdir(odd)
        with open(odd + b"/\xfe", "w"):
            pass
        (project / f"even-{number}").touch()
        reader.await_truth()
    assert len(reader.doubts) > 1
    (project / "last").touch()
    reader.await_truth()


def test_an_upper_may_have_any_path(reading: Callable[[Path], Reader], project: Path) -> None:
    odd = os.path.join(os.fsencode(project), b"odd \xff \\ \n")
    os.mkdir(odd)
    reader = reading(type(project)(os.fsdecode(odd)))
    with open(odd + b"/file", "w"):
        pass
    reader.await_truth()
    assert len(reader.doubts) == 1


def test_a_queue_that_overflows_is_a_doubt(
    reading: Callable[[Path], Reader],
    limited: Callable[..., AbstractContextManager[None]],
    project: Path,
) -> None:
    with limited("max_queued_events", 16):
        reader = reading(project)
    for number in range(3_000):
        (project / str(number)).touch()
    reader.await_truth(within=60)
    assert any("more changes than" in doubt for doubt in reader.doubts)


def test_directories_whose_making_nobody_was_told_of_are_watched_in_the_end(
    reading: Callable[[Path], Reader],
    limited: Callable[..., AbstractContextManager[None]],
    project: Path,
) -> None:
    with limited("max_queued_events", 16):
        reader = reading(project)
    for number in range(2_000):
        (project / str(number)).mkdir()
    made = {path.stat().st_ino for path in project.iterdir()}
    until(lambda: made <= all_watched(), "a watch on each", within=60)
    reader.await_truth(within=60)


def all_watched() -> set[int]:
    """Return the inode numbers of all that this process watches."""
    found: set[int] = set()
    for instance in inotify.instances():
        with suppress(FileNotFoundError):
            found |= inotify.watched(instance)
    return found


def test_where_nothing_can_be_watched_all_is_compared_until_it_can(
    reading: Callable[[Path], Reader],
    limited: Callable[..., AbstractContextManager[None]],
    project: Path,
) -> None:
    for number in range(5):
        (project / str(number)).mkdir()
    with limited("max_user_watches", 1):
        reader = reading(project)
        assert "not watched:" in reader.doubts[0]
        (project / "0" / "meanwhile").touch()
        reader.await_truth()
    until(lambda: "before" in reader.doubts[-1], "the upper is watched again")
    (project / "1" / "later").touch()
    until(lambda: reader.touched(b"1/later"), "a hint")


def test_a_limit_that_is_reached_later_is_noticed(
    reading: Callable[[Path], Reader],
    limited: Callable[..., AbstractContextManager[None]],
    project: Path,
) -> None:
    reader = reading(project)
    with limited("max_user_watches", 1):
        (project / "new").mkdir()
        until(lambda: "not watched:" in reader.doubts[-1], "a doubt")
        (project / "new" / "file").touch()
        reader.await_truth()
    until(lambda: "before" in reader.doubts[-1], "the upper is watched again")
    (project / "new" / "later").touch()
    until(lambda: reader.touched(b"new/later"), "a hint")


def test_a_directory_that_moves_is_watched_where_it_goes(
    reading: Callable[[Path], Reader], project: Path
) -> None:
    (project / "old" / "inner").mkdir(parents=True)
    reader = reading(project)
    for number in range(100):
        (project / "old").rename(project / "new")
        (project / "new" / "inner" / f"there-{number}").touch()
        reader.await_truth()
        (project / "new").rename(project / "old")
        (project / "old" / "inner" / f"here-{number}").touch()
        reader.await_truth()
    assert len(reader.doubts) == 1


def test_a_directory_that_went_and_came_back_at_once_is_still_watched(
    reading: Callable[[Path], Reader], project: Path
) -> None:
    (project / "old" / "inner").mkdir(parents=True)
    reader = reading(project)
    for number in range(100):
        (project / "old").rename(project / "new")
        (project / "new").rename(project / "old")
        (project / "old" / "inner" / f"here-{number}").touch()
        reader.await_truth()
    assert len(reader.doubts) == 1


def test_while_nothing_happens_the_thread_does_not_run(
    reading: Callable[[Path], Reader], project: Path
) -> None:
    for number in range(100):
        (project / str(number)).mkdir()
    reader = reading(project)
    (project / "1" / "file").touch()
    reader.await_truth()
    (thread,) = reader.threads
    until(lambda: reader.patrols > 0 and proc.is_asleep(thread), "the end of all work")
    quiet = threading.Event()
    quiet.wait(0.5)
    before = switches(thread)
    quiet.wait(2.0)
    assert switches(thread) == before


def switches(thread: int) -> bytes:
    """Return how often a thread of this process has gone to sleep or was interrupted."""
    return proc.read(b"/proc/self/task/%d/status" % thread).partition(b"voluntary_ctxt")[2]


def test_something_opened_is_followed_by_a_patrol_in_the_thread_that_takes(
    reading: Callable[[Path], Reader], project: Path
) -> None:
    (project / "file").touch()
    reader = reading(project)
    reader.await_truth()
    (project / "file").read_bytes()
    until(lambda: reader.patrols == 1, "a patrol")
    assert len(reader.threads) == 1


def test_it_stops_at_once_and_leaves_nothing(
    reading: Callable[[Path], Reader], project: Path
) -> None:
    instances, threads = inotify.instances(), set(proc.threads(os.getpid()))
    descriptors = set(os.listdir("/proc/self/fd"))
    reader = reading(project)
    stopper = threading.Thread(target=reader.watcher.stop)
    began = time.monotonic()
    stopper.start()
    stopper.join()
    assert time.monotonic() - began < 1.0
    assert inotify.instances() == instances
    assert set(os.listdir("/proc/self/fd")) == descriptors
    until(lambda: set(proc.threads(os.getpid())) <= threads, "the end of the threads")
    taken = len(reader.hints)
    (project / "file").touch()
    assert len(reader.hints) == taken


def test_it_may_be_stopped_at_any_moment(project: Path) -> None:
    for number in range(100):
        reader = Reader(project)
        reader.watcher.start()
        (project / str(number)).touch()
        reader.watcher.stop()
        reader.watcher.stop()


def test_one_that_was_never_started_may_be_stopped(project: Path) -> None:
    Reader(project).watcher.stop()


def test_it_may_be_stopped_by_the_one_who_takes(project: Path) -> None:
    taken: list[Hints] = []

    def take(hints: Hints) -> list[tuple[bytes, int]]:
        taken.append(hints)
        watcher.stop()
        return []

    watcher = Watcher(os.fsencode(project), take, lambda: False)
    watcher.start()
    watcher.stop()
    assert len(taken) <= 1


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOSPC, "full"), Damaged("torn"), ValueError("a fault of the program's")],
    ids=["full-disk", "damaged", "fault"],
)
def test_what_could_not_be_taken_in_is_doubted_until_it_can(
    reading: Callable[[Path], Reader], project: Path, failure: Exception
) -> None:
    reader = reading(project)
    reader.await_truth()
    reader.failures = [failure] * 3
    (project / "file").touch()
    until(lambda: len(reader.doubts) == 2, "a look at everything")
    assert not reader.failures
    reader.await_truth()


def test_doubt_has_no_more_than_its_part_of_the_time(
    limited: Callable[..., AbstractContextManager[None]], project: Path
) -> None:
    spans: list[tuple[float, float]] = []

    def take(hints: Hints) -> list[tuple[bytes, int]]:
        began = time.monotonic()
        if hints.doubt:
            threading.Event().wait(0.05)
            spans.append((began, time.monotonic()))
        return []

    watcher = Watcher(os.fsencode(project), take, lambda: False)
    with limited("max_queued_events", 16):
        watcher.start()
        until(lambda: bool(spans), "the first doubt")
    try:
        deadline = time.monotonic() + 30
        number = 0
        while len(spans) < 4 and time.monotonic() < deadline:
            (project / str(number)).touch()
            number += 1
    finally:
        watcher.stop()
    assert len(spans) >= 4
    pauses = [after[0] - before[1] for before, after in pairwise(spans)]
    assert min(pauses) >= 0.05 * 9


@pytest.mark.parametrize("lacking", ["ring", "watched"])
def test_without_the_kernels_help_it_looks_from_time_to_time(
    reading: Callable[[Path], Reader], project: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    def refuse(*_: int) -> set[int]:
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(inotify, lacking, refuse)
    reader = reading(project)
    for number in range(50):
        inner = project / str(number) / "a" / "b"
        inner.mkdir(parents=True)
        (inner / "file").write_text("content")
    reader.await_truth()
    assert len(reader.doubts) == 1


def test_a_watcher_outlives_a_want_of_descriptors(
    reading: Callable[[Path], Reader], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = reading(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (tmp_path / "file").open("wb", buffering=0) as file:
        reader.await_truth()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
            file.write(b"while nothing can be opened")
            until(lambda: "watch" in caplog.text, "a complaint")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        file.write(b"and later")
    reader.await_truth()
