"""The journal of the feeds: what was told can be read on from any place, and no other place."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from envstack.model import EnvId, LayerId
from envstack.store.index import Index
from envstack.store.journal import Batch, Journal, Position, Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENV = EnvId("00000000000000aa")
OTHER = EnvId("00000000000000bb")
UPPER = LayerId("1111111111111111")
NEXT = LayerId("2222222222222222")
LOWER = LayerId("3333333333333333")


@pytest.fixture
def path(tmp_path: Path) -> bytes:
    return bytes(tmp_path / "feed.db")


@pytest.fixture
def journal(path: bytes) -> Iterator[Journal]:
    with closing(Journal(path, "boot", limit=1000)) as opened:
        yield opened


def tell(journal: Journal, *bodies: str, env: EnvId = ENV) -> None:
    followed = journal.followed(env) or journal.begin(env, UPPER, (LOWER,), 0)
    journal.write(followed, Batch(list(bodies)))


def read(journal: Journal, place: Position | None, env: EnvId = ENV) -> list[str] | None:
    assert place is not None
    told = journal.after(env, place, 100)
    return None if told is None else [each.body for each in told]


def test_events_are_numbered_one_by_one_and_read_in_order_from_any_place(journal: Journal) -> None:
    tell(journal, "one", "two")
    tell(journal, "three")
    end = journal.end(ENV)
    assert end is not None
    assert end.seq == 3
    told = journal.after(ENV, Position(end.epoch, 0), 100)
    assert told is not None
    assert [(each.position.seq, each.body) for each in told] == [
        (1, "one"),
        (2, "two"),
        (3, "three"),
    ]
    for each in told:
        assert read(journal, each.position) == ["one", "two", "three"][each.position.seq :]


def test_reading_takes_no_more_than_was_asked_for(journal: Journal) -> None:
    tell(journal, *map(str, range(10)))
    end = journal.end(ENV)
    assert end is not None
    told = journal.after(ENV, Position(end.epoch, 2), 3)
    assert told is not None
    assert [each.body for each in told] == ["2", "3", "4"]


def test_environments_are_numbered_by_themselves(journal: Journal) -> None:
    tell(journal, "mine")
    tell(journal, "theirs", "too", env=OTHER)
    mine, theirs = journal.end(ENV), journal.end(OTHER)
    assert mine is not None
    assert theirs is not None
    assert (mine.seq, theirs.seq) == (1, 2)
    assert mine.epoch != theirs.epoch
    assert read(journal, Position(mine.epoch, 0), OTHER) is None


def test_what_was_told_outlives_the_process(path: bytes) -> None:
    with closing(Journal(path, "boot")) as journal:
        tell(journal, "one")
        place = journal.end(ENV)
        tell(journal, "two")
    with closing(Journal(path, "boot")) as journal:
        tell(journal, "three")
        assert read(journal, place) == ["two", "three"]


def test_a_place_of_an_earlier_boot_is_read_on_from(path: bytes) -> None:
    with closing(Journal(path, "boot")) as journal:
        tell(journal, "one", "two")
        end = journal.end(ENV)
    assert end is not None
    with closing(Journal(path, "another boot")) as journal:
        tell(journal, "three")
        after = journal.end(ENV)
        assert after is not None
        assert after.epoch != end.epoch
        assert read(journal, Position(end.epoch, 1)) == ["two", "three"]
        assert read(journal, end) == ["three"]


def test_a_place_that_a_power_cut_took_is_out_of_reach(path: bytes) -> None:
    with closing(Journal(path, "boot")) as journal:
        tell(journal, "one", "two")
        lost = journal.end(ENV)
        assert lost is not None
        with journal.transaction() as connection:  # the disk never heard of the last event
            connection.execute("DELETE FROM event WHERE seq = 2")
            connection.execute("UPDATE followed SET seq = 1")
    with closing(Journal(path, "another boot")) as journal:
        tell(journal, "another two", "three")
        assert read(journal, lost) is None
        assert read(journal, Position(lost.epoch, 1)) == ["another two", "three"]


@pytest.mark.parametrize("seq", [3, 10**17])
def test_a_place_that_nobody_told_is_out_of_reach(journal: Journal, seq: int) -> None:
    tell(journal, "one", "two")
    end = journal.end(ENV)
    assert end is not None
    assert read(journal, Position(end.epoch, seq)) is None
    assert read(journal, Position("0" * 8, 1)) is None


def test_the_oldest_events_are_forgotten_beyond_the_limit(journal: Journal) -> None:
    for number in range(100):
        tell(journal, f"{number:099d}")
    end = journal.end(ENV)
    assert end is not None
    assert read(journal, Position(end.epoch, 0)) is None
    kept = next(seq for seq in range(101) if read(journal, Position(end.epoch, seq)) is not None)
    assert 1000 >= 99 * (end.seq - kept) > 700
    size = journal.find("SELECT bytes, (SELECT sum(length(body)) FROM event) FROM followed")[0]
    assert size[0] == size[1]


def test_one_event_larger_than_the_limit_leaves_an_empty_journal_at_its_end(
    journal: Journal,
) -> None:
    tell(journal, "x" * 2000)
    end = journal.end(ENV)
    assert read(journal, end) == []


def test_a_feed_that_begins_anew_goes_on_counting_and_knows_no_earlier_place(
    journal: Journal,
) -> None:
    tell(journal, "one", "two")
    before = journal.end(ENV)
    journal.begin(ENV, NEXT, (), 7)
    after = journal.end(ENV)
    assert before is not None
    assert after is not None
    assert after.seq == before.seq
    assert read(journal, before) is None
    tell(journal, "three")
    assert read(journal, after) == ["three"]


def test_the_index_changes_with_the_events_and_not_without(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(journal, "one")
    followed = journal.followed(ENV)
    assert followed is not None
    row = Row(b"facts", 5)
    journal.write(followed, Batch([], {(b"", b"name"): row, (b"name", b"below"): row}))
    index = Index(journal, followed)
    assert index.rows(b"") == {b"name": row}

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(journal, "_trim", fail)
    with pytest.raises(Exception, match="is full"):
        journal.write(followed, Batch(["two"], {(b"", b"name"): None}))
    assert index.rows(b"") == {b"name": row}
    end = journal.end(ENV)
    assert end is not None
    assert end.seq == 1


def test_another_upper_begins_with_an_empty_index(journal: Journal) -> None:
    tell(journal, "one")
    followed = journal.followed(ENV)
    assert followed is not None
    followed = journal.write(followed, Batch([], {(b"", b"old"): Row(b"", 1)}))
    moved = journal.write(
        followed, Batch([], {(b"", b"new"): Row(b"", 2)}, moved=(NEXT, (UPPER, LOWER)), ops=3)
    )
    assert moved == journal.followed(ENV)
    assert (moved.upper, moved.lowers, moved.ops) == (NEXT, (UPPER, LOWER), 3)
    assert list(Index(journal, moved).rows(b"")) == [b"new"]


def test_layers_are_needed_while_the_feed_stands_on_them(journal: Journal) -> None:
    tell(journal, "one")
    assert journal.needs(UPPER)
    assert journal.needs(LOWER)
    assert not journal.needs(NEXT)
    journal.forget(ENV)
    assert not journal.needs(UPPER)
    assert journal.environments() == []


def test_names_of_one_file_are_found_by_its_number(journal: Journal) -> None:
    tell(journal, "one")
    followed = journal.followed(ENV)
    assert followed is not None
    linked, single = Row(b"", 5), Row(b"", 6)
    rows: dict[tuple[bytes, bytes], Row | None] = {
        (b"", b"a"): linked,
        (b"d/e", b"b"): linked,
        (b"", b"c"): single,
    }
    index = Index(journal, journal.write(followed, Batch([], rows)))
    assert sorted(index.names_of(5)) == [b"a", b"d/e/b"]
    assert index.names_of(6) == [b"c"]
    assert index.names_of(7) == []


def test_all_files_are_come_by_in_turns(journal: Journal) -> None:
    tell(journal, "one")
    followed = journal.followed(ENV)
    assert followed is not None
    places = [(b"", b"a"), (b"", b"z"), (b"a", b"b"), (b"a-b", b"c"), (b"a/b", b"c")]
    rows: dict[tuple[bytes, bytes], Row | None] = dict.fromkeys(places, Row(b"", 1))
    index = Index(journal, journal.write(followed, Batch([], rows)))
    seen: list[bytes] = []
    at = b""
    while found := index.following(at, 2):
        seen += found
        at = found[-1]
    assert sorted(seen) == [b"a", b"a-b/c", b"a/b", b"a/b/c", b"z"]
    assert len(seen) == 5


def test_a_journal_that_cannot_be_read_is_put_aside(path: bytes) -> None:
    with open(path, "wb") as file:
        file.write(b"this is no database" * 1000)
    with closing(Journal(path, "boot")) as journal:
        tell(journal, "one")
        assert journal.end(ENV) is not None
    with open(path + b".damaged", "rb") as file:
        assert file.read(7) == b"this is"
