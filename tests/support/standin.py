"""The simplest feed that keeps the promise, by comparing whole trees, to try out the mirror.

It finds nothing by itself: whoever changes the tree lets it `look`. Each method that could be got
wrong stands alone, so that a test can get it wrong on purpose.
"""

from __future__ import annotations

import base64
import itertools
import threading
from typing import TYPE_CHECKING, Any

from tests.support import trees
from tests.support.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.trees import Tree

Json = dict[str, Any]

_MOST = 1000
_ENV = "00ff00ff00ff00ff"
_LONGEST = 1.0
"""Seconds: what it tells it tells at once, so whoever waits longer waits for what never comes."""


class StandIn:
    """A `Source` for any directory."""

    def __init__(self, merged: Path) -> None:
        self._merged = merged
        self._tree = trees.snapshot(merged)
        self._numbers = itertools.count(1)
        self.epoch = 1
        self._seq = 0
        self.journal: list[Json] = []
        self.news = threading.Condition()

    @property
    def merged(self) -> Path:
        return self._merged

    def is_mounted(self) -> bool:
        return True

    def subscribe(self, since: str | None = None, **_options: object) -> StandInFeed:
        """Subscribe; `since` is a cursor of this feed."""
        if since is None:
            return StandInFeed(self, self._ready(self._seq, fresh=False))
        _, epoch, seq = since.split(".")
        if int(epoch) == self.epoch:
            return StandInFeed(self, self._ready(int(seq), fresh=False))
        return StandInFeed(self, self.begin_anew())

    def begin_anew(self) -> Json:
        """Return the `ready` of a subscriber whose place is lost."""
        return self._ready(self._seq, fresh=True)

    def sync(self) -> Json:
        self.look()
        return self.tell("sync")

    def look(self) -> None:
        """Tell what changed since the last look."""
        before, self._tree = self._tree, trees.snapshot(self._merged)
        rows = list(self.rows(before, self._tree))
        for start in range(0, len(rows), self.most()):
            self.tell("changes", changes=rows[start : start + self.most()])

    def lose(self) -> None:
        """Lose what is known: cursors from before lead nowhere."""
        self._tree = trees.snapshot(self._merged)
        self.journal.clear()
        self.epoch += 1

    def after(self, seq: int) -> Iterator[Json]:
        """Yield what the journal has after a place."""
        return (told for told in self.journal if told["seq"] > seq)

    def tell(self, event: str, **more: object) -> Json:
        """Put an event into the journal."""
        self._seq += 1
        told = {"event": event, **self._place(self._seq), **more}
        with self.news:
            self.journal.append(told)
            self.news.notify_all()
        return told

    def rows(self, before: Tree, after: Tree) -> Iterator[Json]:
        """Yield the changes: what is deleted first and from the leaves, then all else downwards."""
        changes = self.changes(before, after)
        for path, _, kind in sorted(self.deleted(changes), reverse=True):
            yield self.row(path, "deleted", kind)
        for path, change, kind in sorted(changes):
            if change != "deleted":
                yield self.row(path, change, kind)

    def changes(self, before: Tree, after: Tree) -> set[tuple[bytes, str, str]]:
        return trees.changes(before, after)

    def deleted(self, changes: set[tuple[bytes, str, str]]) -> list[tuple[bytes, str, str]]:
        return [row for row in changes if row[1] == "deleted"]

    def row(self, path: bytes, change: str, kind: str) -> Json:
        row = {"path": path.decode(errors="replace"), "change": change, "kind": kind}
        if row["path"].encode() != path:
            row["path_b64"] = base64.b64encode(path).decode()
        return row

    def most(self) -> int:
        return _MOST

    def _ready(self, seq: int, *, fresh: bool) -> Json:
        about = {"env": "standin", "mount": str(self._merged), "head": None, "fresh": fresh}
        return {"event": "ready", **self._place(seq), **about}

    def _place(self, seq: int) -> Json:
        return {"cursor": f"{_ENV}.{self.epoch}.{seq}", "seq": seq}


class StandInFeed:
    """One subscription."""

    def __init__(self, source: StandIn, ready: Json) -> None:
        self._source = source
        self._seq: int = ready["seq"]
        self._epoch = source.epoch
        self._first: Json | None = ready

    def next(self, within: float = 0.0) -> Json | None:
        """Return the next event of the journal; None if there is none in so many seconds."""
        if self._epoch != self._source.epoch:
            self._epoch, self._first = self._source.epoch, self._source.begin_anew()
            self._seq = self._first["seq"]
        if self._first is not None:
            ready, self._first = self._first, None
            return ready
        with self._source.news:
            self._source.news.wait_for(self._next, min(within, _LONGEST))
            told = self._next()
        if told is not None:
            self._seq = told["seq"]
        return told

    def _next(self) -> Json | None:
        return next(self._source.after(self._seq), None)

    def close(self) -> None:
        """There is nothing that would have to end."""


class FollowedReference(Reference):
    """The reference of the model, with a feed."""

    def __init__(self, place: Path, layers: list[str], feed: type[StandIn]) -> None:
        super().__init__(place, layers)
        super().up()
        self.feed = feed(self.merged)

    def checkpoint(self, message: str = "") -> Json:
        row = super().checkpoint(message)
        self.feed.tell("checkpoint", id=row["id"], message=message, mode="rotate")
        return row

    def rollback(self, rev: str = "@", *, discard: bool = False) -> Json:
        self.feed.look()
        answer = super().rollback(rev, discard=discard)
        self.feed.tell("rollback-begin", to=answer["to"])
        self.feed.look()
        self.feed.tell("rollback-end", to=answer["to"])
        return answer

    def down(self) -> Json:
        answer = super().down()
        self.feed.tell("mount", state="unmounted")
        return answer

    def up(self) -> Json:
        answer = super().up()
        self.feed.tell("mount", state="mounted")
        return answer

    def relay(self) -> Json:
        answer = super().relay()
        self.feed.lose()
        return answer
