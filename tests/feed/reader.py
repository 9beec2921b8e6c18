"""A reader of hints: it keeps a listing of an upper, and looks again only where a hint says so."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING

from envstack.feed.hints import ROOT, Hints, Touch
from envstack.feed.watcher import Watcher
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

Facts = tuple[int, int, int, int]


class Reader:
    """Watches `upper` while the context lasts, and knows what the hints led it to."""

    def __init__(self, upper: Path) -> None:
        self.upper = os.fsencode(upper)
        self.known: dict[bytes, Facts] = {}
        self.doubts: list[str] = []
        self.hints: list[Hints] = []
        self.patrols = 0
        self.failures: list[Exception] = []
        self.threads: set[int] = set()
        self.watcher = Watcher(self.upper, self.take, self.patrol)

    def __enter__(self) -> Reader:
        self.watcher.start()
        until(lambda: bool(self.hints), "the first hints")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.watcher.stop()

    def take(self, hints: Hints) -> Iterator[tuple[bytes, int]]:
        """Look where the hints say; yield the directories that are new."""
        self.threads.add(threading.get_native_id())
        self.hints.append(hints)
        if self.failures:
            raise self.failures.pop()
        if hints.doubt is not None:
            self.doubts.append(hints.doubt)
            yield from self._look(ROOT)
        for path, touch in hints.touched.items():
            if touch is Touch.TREE:
                yield from self._look(path)
            else:
                self._note(path)

    def patrol(self) -> bool:
        """Count the patrols."""
        self.threads.add(threading.get_native_id())
        self.patrols += 1
        return False

    def await_truth(self, within: float = 20.0) -> None:
        """Return once the listing is what is there, without anything being done about it."""
        until(lambda: self.known == listing(self.upper), "the truth", within)

    def touched(self, path: bytes) -> bool:
        """Tell whether a path was ever hinted at."""
        return any(path in hints.touched for hints in tuple(self.hints))

    def _look(self, path: bytes) -> Iterator[tuple[bytes, int]]:
        below = b"" if path == ROOT else path + b"/"
        for known in [each for each in self.known if each == path or each.startswith(below)]:
            if facts_of(self.upper, known) is None:
                del self.known[known]
        for found in walk(self.upper, path):
            before = self.known.get(found)
            facts = self._note(found)
            if facts and stat.S_ISDIR(facts[1]) and not (before and before[0] == facts[0]):
                yield found, facts[0]

    def _note(self, path: bytes) -> Facts | None:
        facts = facts_of(self.upper, path)
        if facts is None:
            self.known.pop(path, None)
        else:
            self.known[path] = facts
        return facts


def facts_of(upper: bytes, path: bytes) -> Facts | None:
    try:
        status = os.lstat(os.path.join(upper, path))
    except OSError:
        return None
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    changed = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
    return status.st_ino, status.st_mode, size, changed


def walk(upper: bytes, path: bytes) -> Iterator[bytes]:
    """Yield a path and all below it, as paths relative to the upper; no link is followed."""
    yield path
    facts = facts_of(upper, path)
    if facts is None or not stat.S_ISDIR(facts[1]):
        return
    try:
        entries = list(os.scandir(os.path.join(upper, path)))
    except OSError:
        return
    for entry in entries:
        inner = entry.name if path == ROOT else path + b"/" + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from walk(upper, inner)
        else:
            yield inner


def listing(upper: bytes) -> dict[bytes, Facts]:
    """Return what is in the upper."""
    found = ((path, facts_of(upper, path)) for path in walk(upper, ROOT))
    return {path: facts for path, facts in found if facts is not None}
