"""Those who follow a feed: where they begin, what they hear, and what becomes of the slow."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import waiting
from tests.support.edits import write
from tests.support.feed import Refused, SocketSource, whole
from tests.support.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.feed import Subscription

pytestmark = pytest.mark.kernel

Json = dict[str, Any]
WITHIN = 20.0


@pytest.fixture
def sandbox(home: Path, project: Path) -> Iterator[Sandbox]:
    with Sandbox(home, project, {"base": [write("known", "known\n")]}) as made:
        made.up()
        yield made


@pytest.fixture
def source(sandbox: Sandbox) -> SocketSource:
    return SocketSource(sandbox)


def up_to_now(source: SocketSource, feed: Subscription) -> list[Json]:
    """Return what a subscription tells until a barrier, that left out."""
    return list(whole(feed, source.sync()["seq"]))[:-1]


def up_to_the_end(feed: Subscription) -> None:
    """Read until it is over. Raises what ended it."""
    while feed.next() is not None:
        continue


def begun(source: SocketSource, feed: Subscription) -> list[Json]:
    """Return how a subscription begins, and what it tells from there until a barrier."""
    ready = feed.next()
    assert ready is not None
    return [ready, *up_to_now(source, feed)]


def changes(events: list[Json]) -> list[tuple[str, str]]:
    return [
        (row["change"], row["path"])
        for event in events
        if event["event"] == "changes"
        for row in event["changes"]
    ]


def test_it_begins_with_where_it_stands(source: SocketSource, sandbox: Sandbox) -> None:
    sandbox.checkpoint("first")
    cursor = source.sync()["cursor"]
    with source.subscribe() as feed:
        ready = feed.next()
        assert ready is not None
        status = sandbox.status()
        assert ready == {
            "event": "ready",
            "cursor": cursor,
            "seq": ready["seq"],
            "env": "sandbox",
            "mount": str(sandbox.merged),
            "head": status["head"]["id"],
            "fresh": False,
        }
        assert status["cursor"] == cursor


def test_each_hears_what_its_patterns_leave(sandbox: Sandbox, source: SocketSource) -> None:
    stack = json.loads(sandbox.stack.read_text())
    sandbox.stack.write_text(json.dumps({**stack, "watch": {"ignore": ["*.o", "*.tmp"]}}))
    (sandbox.merged / "src").mkdir()
    source.sync()
    with (
        source.subscribe() as all_of_it,
        source.subscribe(ignore=["*.log", "!keep.o"]) as some,
        source.subscribe(prefix="src") as inside,
    ):
        feeds = [all_of_it, some, inside]
        assert [feed.next() is None for feed in feeds] == [False] * 3
        for name in ("a.o", "keep.o", "a.tmp", "a.log", "src/b.c", "src/b.o"):
            (sandbox.merged / name).write_text("x")
        heard = [{path for _, path in changes(up_to_now(source, feed))} for feed in feeds]
    assert heard == [{"a.log", "src/b.c"}, {"keep.o", "src/b.c"}, {"src/b.c"}]


def test_a_cursor_leads_to_all_that_came_after_it(sandbox: Sandbox, source: SocketSource) -> None:
    before = source.sync()["cursor"]
    (sandbox.merged / "one").write_text("1")
    sandbox.checkpoint("between")
    (sandbox.merged / "known").unlink()
    with source.subscribe(before) as feed:
        ready, *events = up_to_now(source, feed)
    assert not ready["fresh"]
    assert changes(events) == [("added", "one"), ("deleted", "known")]


def test_a_cursor_leads_on_after_the_daemon_was_killed_and_the_machine_went_down(
    sandbox: Sandbox, source: SocketSource
) -> None:
    cursor = source.sync()["cursor"]
    sandbox.kill_daemon()
    (sandbox.merged / "meanwhile").write_text("nobody sees")
    sandbox.up()
    sandbox.power_off()
    with source.subscribe(cursor) as feed:
        ready, *events = up_to_now(source, feed)
    assert not ready["fresh"]
    assert changes(events) == [("added", "meanwhile")]


@pytest.mark.parametrize("cursor", ["nonsense", "", "0" * 16 + ".00000000.1"])
def test_what_is_no_cursor_of_this_environment_is_refused(
    source: SocketSource, cursor: str
) -> None:
    with source.subscribe(cursor) as feed, pytest.raises(Refused) as refused:
        feed.next()
    assert refused.value.exit_code == 2


def test_an_unknown_cursor_brings_the_whole_difference_from_the_head(
    sandbox: Sandbox, source: SocketSource
) -> None:
    (sandbox.merged / "sealed").write_text("s")
    sandbox.checkpoint()
    (sandbox.merged / "dir").mkdir()
    (sandbox.merged / "dir" / "new").write_text("n")
    (sandbox.merged / "known").unlink()
    env, _, seq = source.sync()["cursor"].split(".")
    with source.subscribe(f"{env}.0badc0de.{seq}") as feed:
        ready, *events = begun(source, feed)
        (sandbox.merged / "later").write_text("l")
        later = up_to_now(source, feed)
    assert ready["fresh"]
    assert changes(events) == [("deleted", "known"), ("added", "dir"), ("added", "dir/new")]
    assert {event["cursor"] for event in events} == {ready["cursor"]}
    assert changes(later) == [("added", "later")]


def test_one_that_reads_nothing_holds_up_nobody_and_goes_on_when_it_reads(
    sandbox: Sandbox, source: SocketSource
) -> None:
    with source.subscribe() as slow, source.subscribe() as quick:
        assert slow.next() is not None
        assert quick.next() is not None
        expected = []
        for number in range(200):
            directory = sandbox.merged / f"{number:03d}"
            directory.mkdir()
            for name in range(100):
                (directory / f"{name:02d}{'x' * 100}").touch()
            expected.append(directory.name)
        sandbox.checkpoint("nobody waits")
        last = source.sync()["seq"]
        for feed in (quick, slow):
            told = [path for change, path in changes(list(whole(feed, last))) if change == "added"]
            assert len(told) == len(set(told)) == 200 * 101
            assert [path for path in told if "/" not in path] == expected


def test_one_that_reads_nothing_does_not_hold_up_the_end_of_the_daemon(
    sandbox: Sandbox, source: SocketSource
) -> None:
    with source.subscribe() as slow:
        assert slow.next() is not None
        for number in range(20_000):
            (sandbox.merged / f"{number}{'x' * 150}").touch()
        source.sync()
        sandbox.stop_daemon()


def test_one_that_the_journal_leaves_behind_begins_anew(
    sandbox: Sandbox, source: SocketSource
) -> None:
    (sandbox.merged / "one").write_text("1")
    with source.subscribe() as feed:
        assert feed.next() is not None
        sandbox.kill_daemon()
    cursor = source.sync()["cursor"]
    (sandbox.merged / "two").write_text("2")
    source.sync()
    sandbox.kill_daemon()
    with closing(sqlite3.connect(sandbox.home / "feed.db")) as connection, connection:
        connection.execute("DELETE FROM event WHERE seq < (SELECT max(seq) FROM event)")
    with source.subscribe(cursor) as feed:
        ready, *events = begun(source, feed)
    assert ready["fresh"]
    assert changes(events) == [("added", "one"), ("added", "two")]


def test_a_feed_database_that_is_lost_is_made_anew(sandbox: Sandbox, source: SocketSource) -> None:
    (sandbox.merged / "one").write_text("1")
    cursor = source.sync()["cursor"]
    sandbox.kill_daemon()
    for path in sandbox.home.glob("feed.db*"):
        path.unlink()
    (sandbox.merged / "two").write_text("2")
    with source.subscribe(cursor) as feed:
        ready, *events = begun(source, feed)
    assert ready["fresh"]
    assert set(changes(events)) == {("added", "one"), ("added", "two")}


def test_nobody_follows_what_is_down_and_who_does_already_goes_on(
    sandbox: Sandbox, source: SocketSource
) -> None:
    with source.subscribe() as feed:
        assert feed.next() is not None
        sandbox.down()
        with source.subscribe() as late, pytest.raises(Refused) as refused:
            late.next()
        assert refused.value.exit_code == 4
        sandbox.up()
        (sandbox.merged / "again").write_text("a")
        events = up_to_now(source, feed)
    assert [event["state"] for event in events[:2]] == ["unmounted", "mounted"]
    assert {event["event"] for event in events[2:]} == {"changes"}
    first, *more = changes(events)
    assert first == ("added", "again")
    assert set(more) <= {("modified", "again")}, "seen while it was written"


def test_it_ends_with_the_environment(sandbox: Sandbox, source: SocketSource) -> None:
    with source.subscribe() as feed:
        assert feed.next() is not None
        sandbox.down(purge=True)
        with pytest.raises(Refused) as refused:
            up_to_the_end(feed)
        assert refused.value.exit_code == 4
    sandbox.up()


def test_a_subscriber_that_goes_away_leaves_nothing_behind(
    sandbox: Sandbox, source: SocketSource
) -> None:
    def connections() -> int:
        descriptors = Path(f"/proc/{sandbox.client.daemon_pid}/fd")
        targets = [os.readlink(each) for each in descriptors.iterdir() if each.is_symlink()]
        return sum(target.startswith("socket:") for target in targets)

    source.sync()
    before = connections()
    for _ in range(20):
        with source.subscribe() as feed:
            assert feed.next() is not None
    waiting.until(lambda: connections() <= before, "closed connections", WITHIN)


def test_a_journal_keeps_no_more_than_the_user_allows(
    sandbox: Sandbox,
    source: SocketSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "envstack").mkdir()
    (tmp_path / "envstack" / "config.yaml").write_text("feed: {journal_mib: 1}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    sandbox.stop_daemon()
    before = source.sync()["cursor"]
    for number in range(8000):
        (sandbox.merged / f"{number}{'x' * 200}").touch()
    after = source.sync()["cursor"]
    with source.subscribe(before) as outrun, source.subscribe(after) as in_reach:
        ready = [outrun.next(), in_reach.next()]
    assert [event and event["fresh"] for event in ready] == [True, False]
