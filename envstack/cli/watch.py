"""`watch` and `sync`: the change feed."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place
from envstack.cli.command import Command, Json, begin
from envstack.errors import UsageError
from envstack.rpc.messages import FEED_SYNC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.events import Events
    from envstack.cli.output import Output

_FOR = "--for"
_SETTLE = 50
"""Milliseconds."""
_DIGITS = 8
"""As many as milliseconds of a day have."""

_Prefix = Annotated[str | None, typer.Argument(metavar="PATH", hidden=True)]
_Since = Annotated[
    str | None,
    typer.Option("--since", metavar="CURSOR", help="Go on from there.", show_default=False),
]
_Once = Annotated[bool, typer.Option("--once", help="Wait for the first change, and end.")]
_Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="PATTERN", help="Leave out, as a .gitignore does; repeat."),
]
_For = Annotated[
    list[str] | None,
    typer.Option(_FOR, metavar="CMD…", help="Run it for each settled batch.", show_default=False),
]
_Settle = Annotated[
    str | None,
    typer.Option(
        "--settle", metavar="MS", help="How long it is quiet after a batch: 50.", show_default=False
    ),
]
_JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object an event.")]
_Null = Annotated[bool, typer.Option("-0", "--null", help="Paths for CMD end with NUL.")]


class WatchCommand(Command):
    """Knows what stands behind `--for` as a command of its own, whatever it looks like."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ours = args[: args.index("--")] if "--" in args else args
        if _FOR in ours:
            at = args.index(_FOR)
            words = args[at + 2 :] if args[at + 1 : at + 2] == ["--"] else args[at + 1 :]
            args = [*args[:at], *(f"{_FOR}={word}" for word in words)] if words else ours
        return super().parse_args(ctx, args)


def watch(
    ctx: typer.Context,
    path: _Prefix = None,
    since: _Since = None,
    once: _Once = False,
    ignore: _Ignore = None,
    settle: _Settle = None,
    null: _Null = False,
    command: _For = None,
    json: _JsonLines = False,
) -> None:
    """Show what changes in the merged tree, as it happens.

    Until Ctrl-C: A added, M modified, D deleted. With PATH only what lies there or below: relative
    to the current directory inside the merged tree, else to its root. What the stack file's
    `watch.ignore` names is left out.

    Each event has a cursor, which --json shows, and `envstack sync` too; --since goes on after it,
    whatever became of the daemon or the machine meanwhile. Where that is not possible the first
    line says so (`"fresh":true`), and what differs from the head follows; for --once that counts as
    a change.

    --for runs CMD, in the directory where you are, once it was quiet after changes, and never amid
    a rollback. It finds their paths, relative to $ENVSTACK_MOUNT, on its standard input, sorted,
    one a line. Changes made meanwhile are the next batch, its own as well: --ignore what it writes,
    or it runs for ever. It may fail; with --once, its exit code is that of this command.

    \b
    Examples:
      envstack watch
      envstack watch --json | jq -r 'select(.changes).changes[].path'
      envstack watch src --ignore '*.pyc' --for make test
      envstack watch --for sh -c 'cd "$ENVSTACK_MOUNT" && xargs -r ruff check'
    """
    out = begin(ctx, json)
    calls.require_root()
    if not command:
        if settle is not None or null:
            raise UsageError("--settle and --null go with --for", "envstack watch --for CMD…")
        with _events(out, path, since, ignore) as events:
            _show(out, events, once=once)
        return
    if out.as_json:
        raise UsageError("--json and --for exclude each other: CMD prints", "take one of them")
    from envstack.cli.batches import Job, run_each

    quiet = _seconds(settle)
    job = Job(command, place.current_directory(), b"\0" if null else b"\n")
    job.check()
    with _events(out, path, since, ignore) as events:
        raise typer.Exit(run_each(out, events, job, quiet, once=once))


@contextmanager
def _events(
    out: Output, path: str | None, since: str | None, ignore: list[str] | None
) -> Iterator[Events]:
    """Yield the events that are asked for; this process leaves the merged tree for that."""
    from envstack.cli.events import Events
    from envstack.client.feed import Feed
    from envstack.client.subscription import subscribe

    prefix = None if path is None else place.in_merged_tree([path])[0]
    # By the stack file: the upper one stands on may be another one when it is asked for anew.
    stack = calls.ask(out, place.here(), "env.glance")["stack"]
    params = {"stack": stack, "since": since, "ignore": ignore or [], "prefix": prefix}
    with closing(subscribe(calls.own_places(), params)) as subscription:
        yield Events(Feed(subscription), out, since)


def _show(out: Output, events: Events, *, once: bool) -> None:
    for event in events:
        is_change = event["event"] == "changes" or events.has_gap
        if is_change or not once:
            out.show(event, events.lines(event, out.paint))
        if is_change and once:
            return


def sync(ctx: typer.Context, json: Json = False) -> None:
    """Print the cursor of now, before which all changes stand.

    Every change that was made before the call stands before that cursor in the feed. What a build
    tool needs before it trusts the feed: read on until `seq` is reached.

    \b
    Examples:
      cursor=$(envstack sync); make; envstack watch --once --since "$cursor"
      envstack sync --json
    """
    out = begin(ctx, json)
    answer = calls.ask(out, place.here(), FEED_SYNC)
    out.show(answer, [answer["cursor"]])


def _seconds(settle: str | None) -> float:
    if settle is None:
        return _SETTLE / 1000
    if not settle.isdecimal():
        raise UsageError(f"--settle takes milliseconds, not {settle!r}", f"--settle {_SETTLE}")
    if len(settle) > _DIGITS:
        raise UsageError("--settle takes a day at the most", f"--settle {_SETTLE}")
    return int(settle) / 1000
