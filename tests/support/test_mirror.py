"""The mirror finds what is wrong with a feed, and nothing where nothing is wrong.

The feed is a stand-in that tells the truth, on a plain directory; each mutant of it is one feed
that breaks the promise in one way.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import trees
from tests.support.edits import apply, chmod, mkdir, remove, rename, write
from tests.support.feed import FeedEndedError
from tests.support.form import Form, Known
from tests.support.mirror import Mirror
from tests.support.standin import StandIn, StandInFeed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.edits import Edit
    from tests.support.trees import Tree

Json = dict[str, Any]
Change = tuple[bytes, str, str]

BEFORE = (mkdir("old"), write("old/one", "one"), write("old/two", "two"), write("shared"))

CHAPTERS: dict[str, list[Edit]] = {
    "a tree": [
        mkdir("new"),
        mkdir("new/deep"),
        write("new/deep/file", "1"),
        write("new/file", "2"),
        lambda root: os.symlink("file", root / "new" / "symlink"),
        lambda root: os.mkfifo(root / "new" / "fifo"),
        lambda root: os.close(os.open(os.fsencode(root) + b"/\xff", os.O_CREAT)),
    ],
    "bytes": [write("new/file", "3"), write("shared", "longer than it was")],
    "a mode": [chmod("new/file", 0o600)],
    "an attribute": [lambda root: os.setxattr(root / "old" / "one", "user.a", b"1")],
    "a rename": [rename("old/two", "new/two")],
    "a tree that goes": [remove("old")],
    "a directory for a file": [remove("new/file"), mkdir("new/file"), write("new/file/in")],
    "a file for a directory": [remove("new/deep"), write("new/deep", "4")],
    "the root": [chmod(".", 0o700)],
}


@pytest.fixture
def plain(directory: Callable[[], Path]) -> Path:
    """A directory that already holds something."""
    place = directory()
    apply(place, *BEFORE)
    return place


def tell(source: StandIn) -> Mirror:
    """Go through all chapters with a mirror that is compared after each."""
    mirror = Mirror(source)
    for edits in CHAPTERS.values():
        apply(source.merged, *edits)
        mirror.check()
    for place in range(len(mirror.told)):
        mirror.check_resumption(place)
    return mirror


def test_a_feed_that_tells_the_truth_is_believed(plain: Path) -> None:
    mirror = tell(StandIn(plain))
    assert mirror.fresh == 0


def test_a_mirror_that_stayed_behind_comes_after(plain: Path) -> None:
    source = StandIn(plain)
    mirror = Mirror(source)
    behind = mirror.fork()
    for edits in CHAPTERS.values():
        apply(source.merged, *edits)
        mirror.check()
    behind.check()
    assert behind.told == [*mirror.told, behind.told[-1]]


def test_what_is_there_by_the_time_of_the_listing_may_be_told_late(plain: Path) -> None:
    class Late(StandIn):
        """Something is added and removed between `ready` and the listing, and told after both."""

        def subscribe(self, since: str | None = None, **options: object) -> StandInFeed:
            feed = super().subscribe(since)
            apply(self.merged, write("early"), remove("old/one"))
            return feed

    mirror = Mirror(Late(plain))
    assert not mirror.differences()


def test_what_vanished_before_it_was_read_is_left_to_a_later_change(plain: Path) -> None:
    source = StandIn(plain)
    mirror = Mirror(source)
    apply(plain, mkdir("brief"), write("brief/file"))
    source.look()
    apply(plain, remove("brief"))
    mirror.read()
    assert any("never there" in line for line in mirror.differences())
    mirror.check()


def test_after_a_gap_a_mirror_lists_anew(plain: Path) -> None:
    source = StandIn(plain)
    mirror = Mirror(source)
    mirror.close()
    apply(plain, write("while nobody looked"), remove("old"))
    source.lose()
    mirror.check()
    assert mirror.fresh == 1


def test_a_feed_that_ends_is_taken_up_again(plain: Path) -> None:
    class Breaks(StandInFeed):
        def next(self, within: float = 0.0) -> Json | None:
            told = super().next(within)
            if told is not None and told["event"] == "changes":
                raise FeedEndedError
            return told

    class Once(StandIn):
        """Its first feed ends with the first change, which is lost on the way."""

        feeds = 0

        def subscribe(self, since: str | None = None, **options: object) -> StandInFeed:
            feed = super().subscribe(since)
            self.feeds += 1
            return Breaks(self, feed._first) if self.feeds == 1 and feed._first else feed

    source = Once(plain)
    mirror = Mirror(source)
    apply(plain, write("new"))
    mirror.check()
    assert source.feeds == 2


def test_a_reader_in_a_thread_fails_the_test_that_asked_for_it(plain: Path) -> None:
    source = SkipsAPlace(plain)
    mirror = Mirror(source)

    def storm() -> None:
        with mirror.reading():
            apply(plain, write("new"))
            source.look()

    with pytest.raises(AssertionError, match="seq"):
        storm()


class Drops(StandIn):
    """The first change of one type in each look is not told."""

    dropped = ""

    def rows(self, before: Tree, after: Tree) -> Iterator[Json]:
        rows = list(super().rows(before, after))
        found = [row for row in rows if row["change"] == self.dropped]
        yield from (row for row in rows if row not in found[:1])


class DropsAnAddition(Drops):
    dropped = "added"


class DropsAModification(Drops):
    dropped = "modified"


class DropsADeletion(Drops):
    dropped = "deleted"


class DiffersByBytesAlone(StandIn):
    def changes(self, before: Tree, after: Tree) -> set[Change]:
        return {
            (path, change, kind)
            for path, change, kind in super().changes(before, after)
            if change != "modified" or before[path].digest != after[path].digest
        }


class DiffersBySizeAlone(StandIn):
    def changes(self, before: Tree, after: Tree) -> set[Change]:
        return {
            (path, change, kind)
            for path, change, kind in super().changes(before, after)
            if change != "modified" or before[path].size != after[path].size
        }


class TellsTreesByTheirTop(StandIn):
    """As inotify does: what is below a directory that came or went is not told."""

    def changes(self, before: Tree, after: Tree) -> set[Change]:
        changes = super().changes(before, after)
        moved = {path for path, change, _ in changes if change != "modified"}
        return {row for row in changes if row[0].rpartition(b"/")[0] not in moved}


class DeletesFromTheTop(StandIn):
    def deleted(self, changes: set[Change]) -> list[Change]:
        return []

    def rows(self, before: Tree, after: Tree) -> Iterator[Json]:
        for path, change, kind in sorted(self.changes(before, after)):
            yield self.row(path, change, kind)


class AddsFromTheLeaves(StandIn):
    def rows(self, before: Tree, after: Tree) -> Iterator[Json]:
        yield from reversed(list(super().rows(before, after)))


class TellsTwice(StandIn):
    def rows(self, before: Tree, after: Tree) -> Iterator[Json]:
        for row in super().rows(before, after):
            yield row
            yield row


class CallsAllAdded(StandIn):
    def row(self, path: bytes, change: str, kind: str) -> Json:
        return super().row(path, "added" if change == "modified" else change, kind)


class KnowsFilesAlone(StandIn):
    def row(self, path: bytes, change: str, kind: str) -> Json:
        return super().row(path, change, "file")


class ShowsNamesAsText(StandIn):
    def row(self, path: bytes, change: str, kind: str) -> Json:
        row = super().row(path, change, kind)
        row.pop("path_b64", None)
        return row


class SkipsAPlace(StandIn):
    def tell(self, event: str, **more: object) -> Json:
        self._seq += event == "changes"
        return super().tell(event, **more)


class ComparesAfterTheBarrier(StandIn):
    def sync(self) -> Json:
        told = self.tell("sync")
        self.look()
        return told


class ResumesAPlaceLate(StandIn):
    def subscribe(self, since: str | None = None, **_options: object) -> StandInFeed:
        feed = super().subscribe(since)
        feed._seq += since is not None
        return feed


class TellsEmptyLines(StandIn):
    def look(self) -> None:
        super().look()
        self.tell("changes", changes=[])


@pytest.mark.parametrize(
    "mutant",
    [
        DropsAnAddition,
        DropsAModification,
        DropsADeletion,
        DiffersByBytesAlone,
        DiffersBySizeAlone,
        TellsTreesByTheirTop,
        DeletesFromTheTop,
        AddsFromTheLeaves,
        TellsTwice,
        CallsAllAdded,
        KnowsFilesAlone,
        ShowsNamesAsText,
        SkipsAPlace,
        ComparesAfterTheBarrier,
        ResumesAPlaceLate,
        TellsEmptyLines,
    ],
)
def test_a_feed_that_does_not_is_found_out(plain: Path, mutant: type[StandIn]) -> None:
    with pytest.raises(AssertionError):
        tell(mutant(plain))


def test_a_line_of_more_than_a_thousand_changes_is_found_out(plain: Path) -> None:
    class LongLines(StandIn):
        def most(self) -> int:
            return 1001

    mirror, strict = Mirror(StandIn(plain)), Mirror(LongLines(plain))
    for number in range(1001):
        (plain / str(number)).touch()
    mirror.check()
    with pytest.raises(AssertionError, match="1001 changes"):
        strict.check()


def test_a_gap_that_is_not_told_is_found_out(plain: Path) -> None:
    class SaysNothing(StandIn):
        def lose(self) -> None:
            self._tree = trees.snapshot(self._merged)

    source = SaysNothing(plain)
    mirror = Mirror(source)
    shutil.rmtree(plain / "old")
    source.lose()
    with pytest.raises(AssertionError, match="not the merged tree"):
        mirror.check()


READY: Json = {"event": "ready", "env": "e", "mount": "/m", "head": None, "fresh": False}
BEGIN: Json = {"event": "rollback-begin", "to": "base"}
END: Json = {"event": "rollback-end", "to": "base"}


def at_places(events: list[Json]) -> list[Json]:
    """Return the events with their places, one after the other."""
    return [{"cursor": f"a.1.{seq}", "seq": seq, **told} for seq, told in enumerate(events)]


@pytest.mark.parametrize(
    "events",
    [
        [{"event": "sync"}],
        [READY, {"event": "nonesuch"}],
        [READY, {"event": "checkpoint", "id": "a"}],
        [READY, {"event": "mount", "state": "gone"}],
        [READY, BEGIN, BEGIN],
        [READY, END],
        [READY, BEGIN, {**END, "to": "another"}],
        [{key: value for key, value in READY.items() if key != "fresh"}],
        [READY, {"event": "changes", "changes": [{"path": "a", "change": "added"}]}],
        *(
            [READY, {"event": "changes", "changes": [{"path": path, "change": c, "kind": "file"}]}]
            for path, c in [("/a", "added"), ("a/../b", "added"), ("a/", "added"), (".", "deleted")]
        ),
    ],
)
def test_a_stream_of_a_wrong_form_is_found_out(events: list[Json]) -> None:
    form = Form(Known.of({b".": "dir"}))
    *before, wrong = at_places(events)
    for told in before:
        form.see(told)
    with pytest.raises(AssertionError):
        form.see(wrong)


def test_a_barrier_within_a_rollback_is_found_out() -> None:
    form = Form(Known.of({b".": "dir"}))
    for told in at_places([READY, BEGIN]):
        form.see(told)
    with pytest.raises(AssertionError, match="rollback-end"):
        form.settle()
