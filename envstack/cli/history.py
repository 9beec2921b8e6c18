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
    from envstack.cli.text import Paint

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
    str, typer.Option("--mode", metavar="auto|swap", help="How to go back.", show_default=False)
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

    Changes since the last checkpoint are sealed first, so that they can be brought back. Nobody
    may be inside; with --force, those who only look are left behind in the old tree. A checkpoint
    that a power cut harmed takes --force as well.

    \b
    Examples:
      envstack rollback                   # to the head
      envstack rollback @~2               # two checkpoints before it
      envstack rollback base --dry-run    # what would it change?
    """
    out = begin(ctx, json)
    check_mode(mode, ("auto", "swap"), not_yet="in-place")
    params = {"rev": rev, "mode": mode, "discard": discard, "force": force, "dry_run": dry_run}
    answer = calls.ask(out, place.here(), "env.rollback", **params)
    if dry_run:
        out.show(answer, changes(answer["paths"], out.paint))
    else:
        out.show(answer, _rolled_back(answer, out.paint))


def _rolled_back(row: dict[str, Any], paint: Paint) -> Iterator[str]:
    took = paint("dim", f"  {row['duration_ms']:.1f} ms")
    yield f"rolled back to {text.revision(row['to'], paint)}{took}"
    if row["saved"]:
        saved = text.revision(row["saved"], paint)
        yield f"what was not sealed is kept as {saved} (envstack rollback {saved})"
    yield from text.left_behind(row["stranded"], paint)
    yield from text.drift(row["drift"], paint)
