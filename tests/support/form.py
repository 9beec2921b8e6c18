"""The form of an unfiltered feed: what can be wrong with it whatever the merged tree is like.

A `Form` is told every event in turn, knows the paths that the feed has made known, and fails with
an AssertionError that names the event. Content is not its business.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.trees import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Json = dict[str, Any]

MOST_CHANGES = 1000
KEYS = {
    "ready": {"env", "mount", "head", "fresh"},
    "changes": {"changes"},
    "checkpoint": {"id", "message", "mode"},
    "rollback-begin": {"to"},
    "rollback-end": {"to"},
    "mount": {"state"},
    "sync": set(),
}
"""What each event has besides `event`, `cursor` and `seq`."""

CHANGES = ("added", "modified", "deleted")
KINDS = ("file", "dir", "symlink", "other")
STATES = ("mounted", "unmounted", "swapped")


def path_of(row: Json) -> bytes:
    """Return the exact path of a change; fails where text and bytes do not tell the same."""
    exact = row.get("path_b64")
    if exact is None:
        path: bytes = row["path"].encode()
        return path
    path = base64.b64decode(exact, validate=True)
    assert row["path"] == path.decode(errors="replace"), f"text and bytes differ: {row}"
    assert path != row["path"].encode(), f"path_b64 though the path is UTF-8: {row}"
    return path


@dataclass
class Known:
    """The paths that are known, each with its kind, and how many are known right below each."""

    kinds: dict[bytes, str] = field(default_factory=dict)
    _below: dict[bytes, int] = field(default_factory=dict)

    @classmethod
    def of(cls, kinds: Mapping[bytes, str]) -> Known:
        """Know these paths and no others."""
        known = cls()
        for path, kind in kinds.items():
            known.put(path, kind)
        return known

    def put(self, path: bytes, kind: str) -> None:
        if path not in self.kinds:
            self._count(path, 1)
        self.kinds[path] = kind

    def drop(self, path: bytes) -> None:
        if self.kinds.pop(path, None) is not None:
            self._count(path, -1)

    def has_below(self, path: bytes) -> bool:
        return self._below.get(path, 0) > 0

    def _count(self, path: bytes, by: int) -> None:
        if path != ROOT:
            above = parent(path)
            self._below[above] = self._below.get(above, 0) + by


def parent(path: bytes) -> bytes:
    """Return the directory that a path stands in."""
    return path.rpartition(b"/")[0] or ROOT


class Form:
    """`known` is changed by what is told.

    A listing takes a while, and what changed meanwhile is told although the listing may have it
    already. So until `settle` is called at the first barrier after a listing, `added` of what is
    known, and `modified` or `deleted` of what is not, are no faults: applied in order, they still
    end in the truth. From then on each change must fit what was told before it.
    """

    def __init__(self, known: Known) -> None:
        self.known = known
        self._is_settled = False
        self._seq: int | None = None
        self._cursors: set[str] = set()
        self._is_difference = False
        self._going_to: str | None = None

    def list_anew(self, known: Known) -> None:
        """Take another listing as what is known; cursors and brackets begin anew too."""
        self.known = known
        self._is_settled = False
        self._cursors.clear()
        self._going_to = None

    def settle(self) -> None:
        """Take note of a barrier: what is known is what the merged tree held then."""
        assert self._going_to is None, f"no rollback-end to {self._going_to} before a barrier"
        self._is_settled = True

    def see(self, told: Json) -> None:
        """Take one event."""
        try:
            self._see(told)
        except AssertionError as fault:
            raise AssertionError(f"{fault}\nin {_short(told)}\nafter seq {self._seq}") from fault
        self._seq = told["seq"]

    def _see(self, told: Json) -> None:
        kind = told.get("event")
        assert kind in KEYS, "no event of the contract"
        missing = ({"cursor", "seq"} | KEYS[kind]) - told.keys()
        assert not missing, f"without {sorted(missing)}"
        self._check_place(told)
        if kind == "changes":
            self._check_changes(told["changes"])
        elif kind == "rollback-begin":
            assert self._going_to is None, "a rollback within a rollback"
            self._going_to = told["to"]
        elif kind == "rollback-end":
            assert self._going_to == told["to"], f"it ends a rollback to {self._going_to}"
            self._going_to = None
        elif kind == "mount":
            assert told["state"] in STATES, "no state of a mount"

    def _check_place(self, told: Json) -> None:
        """`seq` grows by one; the difference after a fresh `ready` may stand at its place."""
        seq, cursor = told["seq"], told["cursor"]
        assert isinstance(cursor, str), "the cursor is no text"
        assert isinstance(seq, int), "the seq is no integer"
        if told["event"] == "ready":
            self._is_difference = told["fresh"]
            assert told["fresh"] or self._seq in (None, seq), "it does not go on where it was left"
            return
        is_at_ready = self._is_difference and told["event"] == "changes" and seq == self._seq
        if not is_at_ready:
            self._is_difference = False
            assert self._seq is not None, "before any ready"
            assert seq == self._seq + 1, "the seq does not grow by one"
            assert cursor not in self._cursors, "a cursor for the second time"
        self._cursors.add(cursor)

    def _check_changes(self, rows: list[Json]) -> None:
        assert 0 < len(rows) <= MOST_CHANGES, f"{len(rows)} changes in a line"
        for row in rows:
            fault = next(self._faults(row), None)
            assert fault is None, f"{row}: {fault}"
            path = path_of(row)
            if row["change"] == "deleted":
                self.known.drop(path)
            else:
                self.known.put(path, row["kind"])

    def _faults(self, row: Json) -> Iterator[str]:
        change, kind = row.get("change"), row.get("kind")
        if change not in CHANGES or kind not in KINDS:
            yield "no change of the contract"
        path = path_of(row)
        names = path.split(b"/")
        if path != ROOT and any(name in (b"", b".", b"..") for name in names):
            yield "no path relative to the mount"
        if path == ROOT and change != "modified":
            yield "the root can be modified and nothing else"
        if self._is_settled:
            yield from self._contradictions(path, str(change), str(kind))

    def _contradictions(self, path: bytes, change: str, kind: str) -> Iterator[str]:
        """Yield in what a change does not fit what was told before."""
        before = self.known.kinds.get(path)
        if change == "added" and before is not None:
            yield f"added, and it was there as {before}"
        if change != "added" and before is None:
            yield f"{change}, and it was not there"
        if change == "deleted" and before not in (None, kind):
            yield f"deleted as {kind}, and it was {before}"
        above = self.known.kinds.get(parent(path), "")
        if change == "added" and above != "dir":
            yield f"added below {above or 'nothing'}"
        if (change == "deleted" or kind != "dir") and self.known.has_below(path):
            yield "what is below it is still there"


def _short(told: Json) -> str:
    text = str(told)
    return text if len(text) < 600 else f"{text[:600]}…"
