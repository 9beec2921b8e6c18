"""The question before an environment is deleted for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envstack.cli import calls, text
from envstack.errors import EnvstackError, StateError

if TYPE_CHECKING:
    from envstack.cli.output import Output
    from envstack.cli.place import Target
    from envstack.client import Client


def require_terminal(out: Output) -> None:
    """Raise StateError where nobody can be asked."""
    if not out.can_ask():
        raise StateError(
            "a purge deletes the history for good, and nobody is here to be asked",
            "envstack down --purge --yes",
        )


def confirm(out: Output, client: Client, target: Target) -> None:
    """Say what would be lost and ask. Raises EnvstackError unless the answer is yes."""
    for row in calls.call(out, client, "env.list"):
        if all(row[key] == value for key, value in target.items()):
            out.tell(_lost(out, row))
    if not out.ask("Delete it for good?"):
        raise EnvstackError("nothing was deleted", "envstack down unmounts and keeps everything")


def _lost(out: Output, row: dict[str, Any]) -> str:
    name = out.paint_errors("bold", text.escaped(row["name"]))
    kept = text.number_of(row["checkpoints"], "checkpoint")
    size = f", {text.size(row)} on disk" if row["size"] is not None else ""
    return f"{name} would be lost: {kept}, what is not sealed{size} ({text.name(row['stack'])})"
