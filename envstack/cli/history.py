"""`checkpoint` and `rollback`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import Json, begin, check_mode, text_of
from envstack.cli.diff import changes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.output import Output
    from envstack.cli.place import Target
    from envstack.cli.text import Paint
    from envstack.client import RemoteError

_NAMED = 10
"""Paths that are named one by one."""

_Message = Annotated[str, typer.Option("-m", "--message", metavar="MSG", help="What it is.")]
_Tag = Annotated[
    str | None,
    typer.Option("--tag", metavar="TAG", help="A name for it.", show_default=False),
]
_SealMode = Annotated[
    str,
    typer.Option("--mode", metavar="auto|rotate|live", help="How to seal.", show_default=False),
]
_BackMode = Annotated[
    str,
    typer.Option(
        "--mode", metavar="auto|swap|in-place", help="How to go back.", show_default=False
    ),
]
_Force = Annotated[
    bool,
    typer.Option("--force", help="Although somebody is inside."),
]
_Sync = Annotated[bool, typer.Option("--sync", help="Return when it would outlive a power cut.")]
_Rev = Annotated[str, typer.Argument(metavar="REV", hidden=True)]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, no more.")]
_Discard = Annotated[bool, typer.Option("--discard", help="Throw unsealed changes away.")]


def checkpoint(
    ctx: typer.Context,
    message: _Message = "",
    tag: _Tag = None,
    mode: _SealMode = "auto",
    sync: _Sync = False,
    force: _Force = False,
    json: Json = False,
) -> None:
    """Remember the merged tree as it is now.

    Where nobody is inside nothing is copied, and the time it takes does not grow with the tree
    (rotate). Else what changed is copied, and nobody inside notices (live). With --force, those who
    only look are left behind in the old tree, which is read-only from then on.

    \b
    Examples:
      envstack checkpoint -m "before the upgrade"
      envstack checkpoint --tag v1
    """
    out = begin(ctx, json)
    check_mode(mode, ("auto", "rotate", "live"))
    params = {"tag": tag, "mode": mode, "sync": sync, "force": force}
    answer = calls.ask(out, place.here(), "env.checkpoint", message=text_of(message), **params)
    out.show(answer, _sealed(answer, out))


def _sealed(row: dict[str, Any], out: Output) -> Iterator[str]:
    paint = out.paint
    tag = f" {paint('green', '(' + row['tag'] + ')')}" if row["tag"] else ""
    made = f"checkpoint {text.revision(row['id'], paint)}{tag}"
    took = paint("dim", f" {row['duration_ms']:.1f} ms")
    yield text.titled(made, text.title(row["message"]), took, out.room)
    if row["mode"] == "live":
        yield paint("dim", f"live: {row['reason']}")
    if row["changes"] is not None and not any(row["changes"].values()):
        yield paint("dim", "nothing had changed: its tree is that of the checkpoint before it")
    yield from _unstable(row["unstable"], paint)
    yield from text.left_behind(row["stranded"], paint)
    yield from text.drift(row["drift"], paint)


def _unstable(paths: list[str], paint: Paint) -> Iterator[str]:
    """Name what changed while it was copied, of which the checkpoint has no single moment."""
    if paths:
        yield paint("yellow", "changed while it was copied, and is not of one moment:")
        yield from (f"  {text.name(path)}" for path in paths[:_NAMED])
    if len(paths) > _NAMED:
        yield f"  and {len(paths) - _NAMED:,} more"


def rollback(
    ctx: typer.Context,
    rev: _Rev = "@",
    mode: _BackMode = "auto",
    dry_run: _DryRun = False,
    discard: _Discard = False,
    force: _Force = False,
    json: Json = False,
) -> None:
    """Make the merged tree what it was at a checkpoint.

    REV is the head (@) if not given; or @~N, a tag, an id or its beginning, base.

    Changes since the last checkpoint are sealed first, so that they can be brought back. Where
    nobody is inside, the mount is exchanged, which takes no time; else the tree is put right path
    by path under whoever is there. --mode swap with somebody inside asks; with --force, those who
    only look are left behind in the old tree. A checkpoint that a power cut harmed takes --force
    as well.

    \b
    Examples:
      envstack rollback                   # to the head
      envstack rollback @~2               # two checkpoints before it
      envstack rollback base --dry-run    # what would it change?
    """
    out = begin(ctx, json)
    check_mode(mode, ("auto", "swap", "in-place"))
    params = {"rev": rev, "mode": mode, "discard": discard, "force": force, "dry_run": dry_run}
    answer = _roll_back(out, place.here(), **params)
    if dry_run:
        out.show(answer, _previewed(answer, out.paint))
    else:
        out.show(answer, _rolled_back(answer, out.paint))


def _roll_back(out: Output, target: Target, **params: Any) -> Any:
    """Return the answer; ask at a terminal where whoever is inside would be left behind."""
    from envstack.client import RemoteError

    try:
        return calls.ask(out, target, "env.rollback", **params)
    except RemoteError as error:
        if params["mode"] != "swap" or not _may_leave(error) or not out.can_ask():
            raise
        out.tell("inside are:")
        for line in text.holders(error.data["holders"], out.paint_errors):
            out.tell(line)
        if not out.ask("Leave them behind in the old tree, which is read-only then?"):
            raise RemoteError(error.message, {**error.data, "holders": []}) from error
        return calls.ask(out, target, "env.rollback", **{**params, "force": True})


def _may_leave(error: RemoteError) -> bool:
    """Tell whether somebody is inside, and all who are can be left behind."""
    from envstack.model import STRANDABLE

    holds = [hold["what"] for row in error.data.get("holders", ()) for hold in row["holds"]]
    return bool(holds) and all(what in STRANDABLE for what in holds)


def _previewed(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    yield from changes(row["paths"], paint)
    yield from text.chosen(row, paint)


def _rolled_back(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    took = paint("dim", f"  {row['duration_ms']:.1f} ms")
    yield f"rolled back to {text.revision(row['to'], paint)}{took}"
    yield from text.chosen(row, paint)
    if row["saved"]:
        saved = text.revision(row["saved"], paint)
        yield f"what was not sealed is kept as {saved} (envstack rollback {saved})"
    if row["saved_meanwhile"]:
        saved = text.revision(row["saved_meanwhile"], paint)
        yield f"what was written meanwhile is kept as {saved} (envstack rollback {saved})"
    if row["late"]:
        yield paint("yellow", "written all the time, and left as they are:")
        yield from (f"  {text.path_of(path)}" for path in row["late"])
    if row["orphaned"]:
        yield paint("yellow", "going on with files that the tree does not show any more:")
        yield from text.holders(row["orphaned"], paint)
    yield from text.left_behind(row["stranded"], paint)
    yield from text.drift(row["drift"], paint)
