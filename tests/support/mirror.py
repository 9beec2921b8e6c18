"""A mirror of a merged tree, fed by nothing but the feed: the promise of the feed as a value.

It holds what is known of each path: the kind as it was told, and all that a reader sees there, read
from the merged tree at the moment when a change names the path, and at no other. So a change that
is not told leaves the mirror as it was, and a comparison at a barrier finds it.
"""

from __future__ import annotations

import copy
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.support import trees
from tests.support.feed import WITHIN, FeedEndedError, whole
from tests.support.form import Form, Known, path_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.feed import Feed, Source
    from tests.support.trees import Entry

Json = dict[str, Any]

_ATTEMPTS = 20
_POLL = 0.05


class Mirror:
    """It is begun, and each `check` made, while nobody writes into the merged tree.

    A daemon that dies is no matter: it goes on from its last cursor. Where the feed answers that
    with `fresh`, the listing is made anew at the next barrier.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._entries: dict[bytes, Entry | None] = {}
        self._is_listed = False
        self._feed: Feed | None = None
        self.form = Form(Known())
        self.cursor: str | None = None
        self.told: list[Json] = []
        self.fresh = 0
        self.barrier()

    def close(self) -> None:
        """End the subscription; the next read begins another where this one ended."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def fork(self) -> Mirror:
        """Return a mirror that knows as much and reads on by itself, whenever it is asked to."""
        other = copy.copy(self)
        other._feed = None
        other._entries = dict(self._entries)
        other.form = copy.deepcopy(self.form)
        other.told = list(self.told)
        return other

    def check(self) -> None:
        """Fail unless all that was done before this call was told, by now, in form and in truth."""
        self.barrier()
        found = self.differences()
        assert not found, "the mirror (left) is not the merged tree (right):\n" + "\n".join(found)

    def barrier(self) -> None:
        """Read everything that was done before this call."""
        for _ in range(_ATTEMPTS):
            try:
                if (self._is_listed or self._list()) and self._reaches(self._source.sync()):
                    self._look([path for path in self._entries if self._may_be_back(path)])
                    self.form.settle()
                    return
            except FeedEndedError:
                continue
        raise AssertionError(f"no barrier was reached in {_ATTEMPTS} attempts")

    def differences(self) -> list[str]:
        """Return one line for each path that is not, in the merged tree, as the mirror has it."""
        tree = trees.snapshot(self._source.merged)
        actual = {path: replace(entry, group=None) for path, entry in tree.items()}
        mine = {path: entry for path, entry in self._entries.items() if entry is not None}
        kinds = self.form.known.kinds
        return [
            *trees.differences(mine, actual),
            *(
                f"{path!r}: told as {kinds.get(path)}, and never there to be read since"
                for path, entry in self._entries.items()
                if entry is None
            ),
            *(
                f"{path!r}: told as {kinds[path]}, and it is {_kind(actual[path])}"
                for path in sorted(kinds.keys() & actual.keys())
                if kinds[path] != _kind(actual[path])
            ),
        ]

    def read(self, within: float = 0.0) -> None:
        """Read what has come; wait for the first so many seconds."""
        while self._take(within) is not None:
            within = 0.0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read whatever comes, as it comes, in a thread, and what has come by the end.

        Nothing else may use the mirror meanwhile.
        """
        is_over = threading.Event()
        faults: list[BaseException] = []

        def read() -> None:
            try:
                while not is_over.is_set():
                    self.read(_POLL)
                self.read()
            except BaseException as fault:
                faults.append(fault)  # raised where it can fail the test

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
        if faults:
            raise faults[0]

    def check_resumption(self, place: int) -> None:
        """Fail unless the cursor of the event `told[place]` leads to the very events after it."""
        since = self.told[place]["cursor"]
        expected = self.told[place + 1 :]
        feed = self._source.subscribe(since)
        try:
            ready = feed.next()
            assert ready is not None, "no ready"
            assert (ready["event"], ready["fresh"]) == ("ready", False), f"{since}: {ready}"
            told = list(whole(feed, expected[-1]["seq"])) if expected else []
        finally:
            feed.close()
        assert told == expected, f"after {since} it was told otherwise before"

    def _reaches(self, end: Json) -> bool:
        """Read up to the barrier; False if the feed ended, or began anew, which may be after it."""
        while self.cursor != end["cursor"]:
            told = self._take(WITHIN)
            if told is None:
                assert self._feed is None, f"nothing in {WITHIN} s, and {end} is still to come"
            if told is None or not self._is_listed:
                return False
        last = self.told[-1]
        assert (last["event"], last["seq"]) == ("sync", end["seq"]), f"{end} is answered by {last}"
        return True

    def _take(self, within: float) -> Json | None:
        """Apply the next event, if one comes in so many seconds, and return it."""
        try:
            if self._feed is None:
                self._feed = self._source.subscribe(self.cursor)
                within = WITHIN
            told = self._feed.next(within)
        except FeedEndedError:
            self.close()
            return None
        if told is not None:
            self.form.see(told)
            self._apply(told)
            self.cursor = told["cursor"]
        return told

    def _apply(self, told: Json) -> None:
        match told["event"]:
            case "ready":
                if told["fresh"]:
                    self._is_listed = False
                    self.fresh += 1
                    self.told.clear()
                    self.form.list_anew(Known())
                return
            case "changes" if self._is_listed:
                self._change(told["changes"])
            case "mount" if told["state"] == "mounted":
                self._look(path for path, entry in self._entries.items() if entry is None)
        self.told.append(told)

    def _change(self, rows: Iterable[Json]) -> None:
        """Read what was added or modified; what has vanished by now is left to a later change."""
        named: dict[bytes, bool] = {path_of(row): row["change"] != "deleted" for row in rows}
        for path, is_there in named.items():
            if not is_there:
                self._entries.pop(path, None)
        self._look(path for path, is_there in named.items() if is_there)

    def _look(self, paths: Iterable[bytes]) -> None:
        paths = list(paths)
        if self._source.is_mounted():
            self._entries.update(zip(paths, trees.entries(self._source.merged, paths), strict=True))
        else:
            self._entries.update(dict.fromkeys(paths))

    def _may_be_back(self, path: bytes) -> bool:
        """Tell whether a path was not there to be read because a directory was away just then.

        One that moves away and back between two looks is told by nothing: nothing has changed.
        """
        is_moved_with_one = b"/" in path or self.form.known.kinds.get(path) == "dir"
        return self._entries[path] is None and is_moved_with_one

    def _list(self) -> bool:
        """Take the tree as it is now as what is known; False if there is no feed.

        The place in the feed comes first, so that all that changes after it is told.
        """
        if self._feed is None and self._take(WITHIN) is None:
            return False
        tree = trees.snapshot(self._source.merged)
        self._entries = {path: replace(entry, group=None) for path, entry in tree.items()}
        self.form.list_anew(Known.of({path: _kind(entry) for path, entry in tree.items()}))
        self._is_listed = True
        return True


def _kind(entry: Entry) -> str:
    return entry.kind if entry.kind in {"file", "dir", "symlink"} else "other"
