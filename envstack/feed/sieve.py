"""What one subscriber wants to hear of: nothing that is ignored, and nothing outside its prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envstack.errors import UsageError
from envstack.rpc.shapes import path_bytes, path_text, told_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Json = dict[str, Any]

_REMEMBERED = 10_000
"""Directories of which it is known whether they are ignored."""


class Sieve:
    """Gitignore patterns, a later one before an earlier one, and a directory or file; b"." is all.

    What is not UTF-8 is matched as it is shown, in names and in patterns. Raises UsageError for
    what is no pattern.
    """

    def __init__(self, patterns: Sequence[str], prefix: bytes = b".") -> None:
        self._prefix = prefix
        self._spec = None
        self._directories: dict[str, bool] = {}
        if patterns:
            from pathspec import GitIgnoreSpec  # rarely needed, and not small

            try:
                shown = [path_text(told_bytes(pattern)) for pattern in patterns]
                self._spec = GitIgnoreSpec.from_lines(shown)
            except ValueError as error:
                raise UsageError(f"a pattern is none: {error}", "see gitignore(5)") from error

    def sift(self, event: Json) -> Json | None:
        """Return an event with the changes that are wanted; None where none of them is."""
        if event["event"] != "changes" or (self._spec is None and self._prefix == b"."):
            return event
        rows = [row for row in event["changes"] if self._keeps(row)]
        return {**event, "changes": rows} if rows else None

    def _keeps(self, row: Json) -> bool:
        path = path_bytes(row)
        if self._prefix not in (b".", path) and not path.startswith(self._prefix + b"/"):
            return False
        if self._spec is None:
            return True
        shown = path_text(path)
        if any(self._ignores(directory) for directory in _above(shown)):
            return False  # no pattern brings back a part of what is ignored
        return not self._spec.match_file(shown + "/" if row["kind"] == "dir" else shown)

    def _ignores(self, directory: str) -> bool:
        known = self._directories.get(directory)
        if known is None:
            if len(self._directories) >= _REMEMBERED:
                self._directories.clear()
            assert self._spec is not None, "without patterns nobody asks"
            known = self._directories[directory] = self._spec.match_file(directory + "/")
        return known


def _above(path: str) -> Iterator[str]:
    """Yield the directories that a path lies in, the topmost first."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)
