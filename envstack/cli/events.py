"""The events of a feed as the commands take them, and as lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envstack.cli import text
from envstack.cli.diff import change

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.output import Output
    from envstack.cli.text import Paint
    from envstack.client import Feed

    Event = dict[str, Any]


class Events:
    """Feed objects, one by one, for as long as somebody reads standard output.

    `has_gap` tells of the last one whether there may be changes before it that were not told.
    """

    def __init__(self, feed: Feed, out: Output, since: str | None) -> None:
        self._feed = feed
        self._out = out
        self._goes_on = since is not None
        self.has_gap = False

    def next(self, seconds: float | None = None) -> Event | None:
        """Return the next one; None where there was none for that long. Raises PipeClosedError."""
        event = self._feed.told(lambda descriptor: self._out.wait_for(descriptor, seconds))
        is_fresh = event is not None and event["event"] == "ready" and event["fresh"]
        self.has_gap = is_fresh and self._goes_on
        self._goes_on |= event is not None
        return event

    def __iter__(self) -> Iterator[Event]:
        while (event := self.next()) is not None:
            yield event

    def lines(self, event: Event, paint: Paint) -> Iterator[str]:
        """Yield the lines for people that the last event makes."""
        match event["event"]:
            case "ready":
                yield paint("dim", _ready(event))
                if self.has_gap:
                    yield paint("yellow", "changes before this are lost: list the tree anew")
            case "changes":
                yield from (change(row, paint) for row in event["changes"])
            case "checkpoint":
                title = text.title(event["message"])
                yield text.titled(
                    f"checkpoint {text.revision(event['id'], paint)}", title, "", None
                )
            case "rollback-begin":
                yield f"rollback to {text.revision(event['to'], paint)} begins"
            case "rollback-end":
                yield f"rollback to {text.revision(event['to'], paint)} is done"
            case "mount":
                yield paint("dim", f"the merged tree is {text.escaped(event['state'])}")
            case name:
                yield paint("dim", text.escaped(name))


def _ready(event: Event) -> str:
    head = event["head"][: text.ID_SHOWN] if event["head"] else "base"
    return f"{text.escaped(event['env'])} on {head} at {text.name(event['mount'])}"
