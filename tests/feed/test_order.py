"""History in the feed: checkpoints, rollbacks and mounts stand where they happened."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.edits import mkdir, write
from tests.support.feed import SocketSource, whole
from tests.support.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.kernel

Json = dict[str, Any]


@pytest.fixture
def sandbox(home: Path, project: Path) -> Iterator[Sandbox]:
    edits = [write("known", "known\n"), mkdir("dir"), write("dir/inner", "inner\n")]
    with Sandbox(home, project, {"base": edits}) as made:
        made.up()
        yield made


@pytest.fixture
def story(sandbox: Sandbox) -> Iterator[Callable[[], list[str]]]:
    """`story()` returns what the feed told since the last time, one short line an event."""
    source = SocketSource(sandbox)
    with source.subscribe() as feed:

        def tell() -> list[str]:
            told = _told(whole(feed, source.sync()["seq"]))
            return [line for line in told if line != "sync"]

        assert [line.split()[0] for line in tell()] == ["ready"]
        yield tell


def _told(events: Iterable[Json]) -> list[str]:
    """Return one line an event or change; what is told once more of a file is left out.

    For it may be seen before it is written, and while it is open for writing.
    """
    lines: list[str] = []
    for line in (line for event in events for line in _lines(event)):
        kind, _, path = line.partition(" ")
        if kind != "m" or not {f"a {path}", line} & set(lines):
            lines.append(line)
    return lines


def _lines(event: Json) -> list[str]:
    match event["event"]:
        case "ready":
            return [f"ready {'fresh' if event['fresh'] else 'on'}"]
        case "changes":
            return [f"{row['change'][0]} {row['path']}" for row in event["changes"]]
        case "checkpoint":
            return [f"checkpoint {event['message']} {event['mode']}"]
        case "mount":
            return [f"mount {event['state']}"]
        case other:
            return [other]


def test_a_checkpoint_stands_between_what_it_holds_and_what_came_later(
    sandbox: Sandbox, story: Callable[[], list[str]]
) -> None:
    (sandbox.merged / "before").write_text("b")
    (sandbox.merged / "known").write_text("changed\n")
    sandbox.checkpoint("one")
    (sandbox.merged / "after").write_text("a")
    sandbox.checkpoint("two")
    assert story() == [
        *("a before", "m known", "checkpoint one rotate", "mount swapped"),
        *("a after", "checkpoint two rotate", "mount swapped"),
    ]


def test_a_checkpoint_of_nothing_is_told_and_swaps_nothing(
    sandbox: Sandbox, story: Callable[[], list[str]]
) -> None:
    sandbox.checkpoint("nothing")
    assert story() == ["checkpoint nothing rotate"]


def test_a_rollback_brackets_what_it_changed(
    sandbox: Sandbox, story: Callable[[], list[str]]
) -> None:
    shutil.rmtree(sandbox.merged / "dir")
    (sandbox.merged / "new").mkdir()
    (sandbox.merged / "new" / "file").write_text("f")
    (sandbox.merged / "known").write_text("changed\n")
    told = story()
    assert told.index("a new") < told.index("a new/file")
    assert told.index("d dir/inner") < told.index("d dir")
    sandbox.rollback("base")
    (sandbox.merged / "late").write_text("l")
    assert story() == [
        "checkpoint saved before rollback to base rotate",
        "rollback-begin",
        "mount swapped",
        *("d new/file", "d new", "a dir", "a dir/inner", "m known"),
        "rollback-end",
        "a late",
    ]


def test_what_a_rollback_discards_is_told_before_it_is_gone(
    sandbox: Sandbox, story: Callable[[], list[str]]
) -> None:
    for number in range(20):
        (sandbox.merged / f"passing {number}").write_text("p")
    sandbox.rollback("@", discard=True)
    told = story()
    begin = told.index("rollback-begin")
    assert sorted(told[:begin]) == sorted(f"a passing {number}" for number in range(20))
    assert told[begin:][:2] == ["rollback-begin", "mount swapped"]
    assert sorted(told[begin:][2:-1]) == sorted(f"d passing {number}" for number in range(20))
    assert told[-1] == "rollback-end"


def test_a_rollback_that_moves_the_head_alone_is_an_empty_bracket(
    sandbox: Sandbox, story: Callable[[], list[str]]
) -> None:
    sandbox.checkpoint("nothing")
    sandbox.rollback("base")
    assert story() == ["checkpoint nothing rotate", "rollback-begin", "rollback-end"]


def test_down_and_up_are_told(sandbox: Sandbox, story: Callable[[], list[str]]) -> None:
    (sandbox.merged / "left").write_text("l")
    sandbox.down()
    sandbox.up()
    assert story() == ["a left", "mount unmounted", "mount mounted"]


def test_what_nobody_saw_before_it_went_down_is_told_before_that(
    sandbox: Sandbox, story: Callable[[], list[str]]
) -> None:
    source = SocketSource(sandbox)
    cursor = source.sync()["cursor"]
    sandbox.kill_daemon()
    for number in range(500):
        (sandbox.merged / f"{number:03d}").write_text("unseen")
    sandbox.down()
    sandbox.up()
    with source.subscribe(cursor) as feed:
        told = _told(whole(feed, source.sync()["seq"]))
    assert told[0] == "ready on"
    assert told[1:501] == [f"a {number:03d}" for number in range(500)]
    assert told[501:] == ["mount unmounted", "mount mounted", "sync"]


def test_where_what_was_done_cannot_be_told_the_feed_begins_anew_after_all_of_it(
    sandbox: Sandbox, story: Callable[[], list[str]]
) -> None:
    upper = sandbox.home / "layers" / sandbox.status()["upper"]
    cursor = SocketSource(sandbox).sync()["cursor"]
    with closing(sqlite3.connect(sandbox.home / "feed.db")) as connection:
        connection.execute("BEGIN IMMEDIATE")  # so that nothing can be told meanwhile
        (sandbox.merged / "lost").write_text("l")
        sandbox.checkpoint("one")
        sandbox.rollback("base")
        sandbox.kill_daemon()
    shutil.rmtree(upper)
    source = SocketSource(sandbox)
    with source.subscribe(cursor) as feed:
        ready = feed.next()
        assert ready is not None
        assert ready["fresh"]
        (sandbox.merged / "new").write_text("n")
        told = _told(whole(feed, source.sync()["seq"]))
    assert told == ["a new", "sync"]


def test_new_layers_are_told_by_what_they_show(
    sandbox: Sandbox, story: Callable[[], list[str]]
) -> None:
    (sandbox.project / "more").mkdir()
    (sandbox.project / "more" / "known").write_text("from more\n")
    (sandbox.project / "more" / "another").write_text("a\n")
    stack = json.loads(sandbox.stack.read_text())
    sandbox.declare({**stack, "layers": [*stack["layers"], {"name": "more", "dir": "more"}]})
    (sandbox.merged / "mine").write_text("m")
    sandbox.up(rebuild="")
    assert story() == [
        "a mine",
        "checkpoint saved before the layers were built anew rotate",
        "mount swapped",
        *("d mine", "a another", "m known"),
    ]


def test_what_changed_below_the_mount_is_no_matter_until_it_is_laid_anew(
    sandbox: Sandbox, story: Callable[[], list[str]]
) -> None:
    (sandbox.directory("base") / "below").write_text("b")
    assert story() == []
    sandbox.relay()
    assert story()[0] == "ready fresh"


def test_all_of_it_is_told_by_the_next_daemon_where_one_was_killed(
    sandbox: Sandbox, story: Callable[[], list[str]]
) -> None:
    cursor = SocketSource(sandbox).sync()["cursor"]
    (sandbox.merged / "one").write_text("1")
    sandbox.checkpoint("one")
    sandbox.kill_daemon()
    (sandbox.merged / "two").write_text("2")
    sandbox.rollback("base")
    sandbox.kill_daemon()
    source = SocketSource(sandbox)
    with source.subscribe(cursor) as feed:
        told = _told(whole(feed, source.sync()["seq"]))
    assert told == [
        *("ready on", "a one", "checkpoint one rotate", "mount swapped", "a two"),
        "checkpoint saved before rollback to base rotate",
        *("rollback-begin", "mount swapped", "d two", "d one", "rollback-end", "sync"),
    ]
