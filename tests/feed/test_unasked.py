"""What subscribers are told while nobody asks for a barrier, which would look at everything."""

from __future__ import annotations

import mmap
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.edits import write
from tests.support.feed import SocketSource
from tests.support.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.feed import Subscription

pytestmark = pytest.mark.kernel

WITHIN = 20.0


@pytest.fixture
def sandbox(home: Path, project: Path) -> Iterator[Sandbox]:
    with Sandbox(home, project, {"base": [write("known", "known\n")]}) as made:
        made.up()
        yield made


@pytest.fixture
def feed(sandbox: Sandbox) -> Iterator[Subscription]:
    source = SocketSource(sandbox)
    with source.subscribe() as feed:
        assert feed.next() is not None
        (sandbox.merged / "begun").touch()
        until_told(feed, {("added", "begun")})
        yield feed


def until_told(feed: Subscription, wanted: set[tuple[str, str]]) -> None:
    """Read until all of that was told; fail if it is not in time."""
    missing = set(wanted)
    deadline = time.monotonic() + WITHIN
    while missing:
        event = feed.next(max(deadline - time.monotonic(), 0.0))
        assert event is not None, f"nobody tells of {len(missing)}, as {sorted(missing)[:5]}"
        missing -= {(row["change"], row["path"]) for row in event.get("changes", ())}


def test_files_in_directories_that_were_made_a_moment_before(
    sandbox: Sandbox, feed: Subscription
) -> None:
    wanted = set()
    for number in range(500):
        directory = sandbox.merged / "many" / str(number) / "a" / "b"
        directory.mkdir(parents=True)
        (directory / "file").touch()
        wanted.add(("added", f"many/{number}/a/b/file"))
    until_told(feed, wanted)


def test_a_write_by_another_name_than_the_one_that_was_linked_to(
    sandbox: Sandbox, feed: Subscription
) -> None:
    (sandbox.merged / "one").write_text("1")
    until_told(feed, {("added", "one")})
    (sandbox.merged / "other").hardlink_to(sandbox.merged / "one")
    until_told(feed, {("added", "other")})
    (sandbox.merged / "other").write_text("written")
    until_told(feed, {("modified", "one"), ("modified", "other")})


@pytest.mark.parametrize("year", [1800, 2400])
def test_a_file_whose_time_is_far_away(sandbox: Sandbox, feed: Subscription, year: int) -> None:
    (sandbox.merged / "file").touch()
    seconds = (year - 1970) * 31_556_952
    os.utime(sandbox.merged / "file", (seconds, seconds))
    (sandbox.merged / "later").touch()
    until_told(feed, {("added", "file"), ("added", "later")})


@pytest.mark.parametrize("asks", ["nobody", "a diff"])
def test_a_write_through_a_mapping_which_the_kernel_tells_nobody_of(
    sandbox: Sandbox, feed: Subscription, asks: str
) -> None:
    """A second write to a page that is dirty already: no event, and no time stamp."""
    path = sandbox.merged / "mapped"
    path.write_bytes(b"0" * 4096)
    until_told(feed, {("added", "mapped")})
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as page:
        page[0] = ord("1")
        last = SocketSource(sandbox).sync()["seq"]  # told, and known to be open for writing
        until_seq(feed, last)
        page[0] = ord("2")
        if asks == "a diff":
            sandbox.diff()
        until_told(feed, {("modified", "mapped")})


def until_seq(feed: Subscription, last: int) -> None:
    """Read up to a barrier."""
    while (event := feed.next()) is not None and event["seq"] < last:
        continue
