"""Feeds that break the promise, each in one way: what the mirror and the machine must find out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.standin import StandIn, StandInFeed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.trees import Tree

Json = dict[str, Any]
Change = tuple[bytes, str, str]


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


MUTANTS: tuple[type[StandIn], ...] = (
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
)
