"""What the feed tells of an operation that was killed: it leads from what was there to what is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from envstack.rpc.shapes import path_bytes
from tests.crash.crashbox import UP
from tests.support.feed import Subscription, whole

if TYPE_CHECKING:
    from tests.crash.crashbox import Crashbox
    from tests.support.trees import Entry, Tree

Json = dict[str, Any]


class Told:
    """The feed of a box from now on, if there is one."""

    def __init__(self, box: Crashbox) -> None:
        self._box = box
        self._cursor: str | None = None
        if box.mounts() and box.state() == UP:
            self._cursor = self._sync()["cursor"]
            self._before = _alone(box.shown())

    def check(self) -> None:
        """Fail unless what was told since leads here."""
        if self._cursor is None:
            return
        last = self._sync()["seq"]
        params = {"stack": str(self._box.stack), "since": self._cursor}
        with Subscription(self._box.places().socket, "feed.subscribe", params) as feed:
            ready = feed.next()
            assert ready is not None
            log = (self._box.home / "daemon.log").read_text()
            assert not ready["fresh"], f"a place was lost that was in the journal:\n{log}"
            rows = [row for event in whole(feed, last) for row in event.get("changes", ())]
        now = _alone(self._box.shown())
        known = {path: entry.kind for path, entry in self._before.items()}
        for row in rows:
            _apply(known, row)
        assert known == {path: entry.kind for path, entry in now.items()}
        named = {path_bytes(row) for row in rows}
        both = self._before.keys() & now.keys()
        untold = {path for path in both if self._before[path] != now[path]} - named
        assert not untold, f"changed, and nobody was told: {untold}"

    def _sync(self) -> Json:
        answer: Json = self._box.call("feed.sync", stack=str(self._box.stack))
        return answer


def _apply(known: dict[bytes, str], row: Json) -> None:
    path, kind = path_bytes(row), row["kind"]
    if row["change"] == "deleted":
        known.pop(path, None)
    else:
        known[path] = kind


def _alone(tree: Tree) -> dict[bytes, Entry]:
    """Return a tree in which every name stands for itself, and kinds are those of the feed."""
    kinds = {"dir", "file", "symlink"}
    return {
        path: replace(entry, group=None, kind=entry.kind if entry.kind in kinds else "other")
        for path, entry in tree.items()
    }
