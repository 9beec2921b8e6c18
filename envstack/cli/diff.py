"""`diff`: what changed, as a list, as names, as a histogram, as a patch."""

from __future__ import annotations

import base64
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli import calls, place, text
from envstack.cli.command import Command, Json, begin
from envstack.client import RemoteError
from envstack.errors import NotFound, UsageError
from envstack.rpc.messages import Progress
from envstack.rpc.shapes import path_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from envstack.cli.output import Output
    from envstack.cli.sides import Pair
    from envstack.cli.text import Paint

    Row = dict[str, Any]

_SIGNS = {"added": ("A", "green"), "modified": ("M", "yellow"), "deleted": ("D", "red")}
_PATHS = "envstack.paths"
_BETWEEN_PROGRESS = 250
"""Files whose lines are counted without a word."""

_From = Annotated[str | None, typer.Argument(metavar="A", hidden=True)]
_To = Annotated[str | None, typer.Argument(metavar="B", hidden=True)]
_Stat = Annotated[bool, typer.Option("--stat", help="Lines added and removed, as a histogram.")]
_NameOnly = Annotated[bool, typer.Option("--name-only", help="Paths alone.")]
_Patch = Annotated[bool, typer.Option("--patch", "-p", help="A patch, for `git apply`.")]


class DiffCommand(Command):
    """Knows what stands behind `--` as paths, however many revisions stand before."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            divide = args.index("--")
            args, ctx.meta[_PATHS] = args[:divide], args[divide + 1 :]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- PATH…]"]


def diff(
    ctx: typer.Context,
    a: _From = None,
    b: _To = None,
    stat: _Stat = False,
    name_only: _NameOnly = False,
    patch: _Patch = False,
    json: Json = False,
) -> None:
    """Show what changed from A to B: A added, M modified, D deleted.

    A is the head if not given, B the merged tree. With PATHs only these and what lies below them:
    relative to the current directory inside the merged tree, else to its root. A patch holds text
    files and symlinks; a binary file, or one over 1 MiB, is named in it and left out, and standard
    error says how many are. It cannot tell of directories, owners and special files.

    \b
    Examples:
      envstack diff                     # since the last checkpoint
      envstack diff base                # since the beginning
      envstack diff @~1 @               # what the last checkpoint holds
      envstack diff --stat -- src docs  # how much, in two directories
      envstack diff --patch >my.patch   # for git apply, or patch -p1
    """
    out = begin(ctx, json)
    if stat + name_only + patch > 1:
        raise UsageError("--stat, --name-only and --patch exclude each other", "take one of them")
    calls.require_root()
    named = ctx.meta.get(_PATHS, [])
    paths = place.in_merged_tree(named) if named else []
    given = [word for word in (a, b) if word is not None and os.path.lexists(word)]
    params = {**place.here(), "a": a, "b": b, "paths": paths}
    method = "env.compare" if stat or patch else "env.diff"
    with calls.running() as client, _paths_explained(given):
        answer = calls.call(out, client, method, **params)
    if stat:
        _show_stat(out, answer)
    elif patch:
        _show_patch(out, answer)
    else:
        out.show(answer, map(text.path_of, answer) if name_only else changes(answer, out.paint))


@contextmanager
def _paths_explained(revisions: Sequence[str]) -> Iterator[None]:
    """Say how to name a path, where one was given as a revision."""
    try:
        yield
    except RemoteError as error:
        if error.kind == NotFound.kind and revisions:
            hint = f"if the path is meant: envstack diff -- {' '.join(revisions)}"
            raise NotFound(error.message, hint) from error
        raise


def changes(rows: list[Row], paint: Paint) -> Iterator[str]:
    """Yield a line a row, and the sums."""
    totals = dict.fromkeys(_SIGNS, 0)
    for row in rows:
        totals[row["change"]] += 1
        yield change(row, paint)
    summary = ", ".join(f"{count:,} {change}" for change, count in totals.items() if count)
    yield paint("dim", summary or "no changes")


def change(row: Row, paint: Paint) -> str:
    """Return the line of one row."""
    sign, colour = _SIGNS[row["change"]]
    return paint(colour, f"{sign} {_name(row)}")


def _name(row: Row) -> str:
    return text.path_of(row, "/" if row["kind"] == "dir" else "")


def _read(answer: Row) -> Iterator[tuple[Row, Pair]]:
    """Yield each row with its two sides; the row without what only this program needs."""
    from envstack.cli.sides import Sides

    with Sides(answer["trees"]) as sides:
        for row in answer["changes"]:
            pair = sides.pair(row)
            yield {key: value for key, value in row.items() if key not in ("old", "new")}, pair


def _show_stat(out: Output, answer: Row) -> None:
    from envstack.cli import stat as stats

    total = len(answer["changes"])
    rows, shown = [], []
    for number, (row, pair) in enumerate(_read(answer)):
        if number % _BETWEEN_PROGRESS == _BETWEEN_PROGRESS - 1:
            out.progress(Progress("counting lines", number, total))
        lines = stats.lines_of(pair)
        added, removed = (lines.added, lines.removed) if lines else (None, None)
        rows.append({**row, "added_lines": added, "removed_lines": removed})
        if (line := stats.stat(_name(row), pair, lines)) is not None:
            shown.append(line)
    out.show(rows, stats.histogram(shown, out.width, out.paint))


def _show_patch(out: Output, answer: Row) -> None:
    from envstack.cli.patch import is_left_out, patches

    if out.as_json:
        out.show_each(_with_patch(row, pair) for row, pair in _read(answer))
        return
    left_out = 0

    def pairs() -> Iterator[Pair]:
        nonlocal left_out
        for _, pair in _read(answer):
            left_out += is_left_out(pair)
            yield pair

    lines = patches(pairs())
    if out.width is not None:
        out.show(None, (text.raw_line(line.data, line.colour, out.paint) for line in lines))
    else:
        out.write(line.data for line in lines)
    if left_out:
        files = text.number_of(left_out, "file")
        out.tell(out.paint_errors("yellow", f"not in the patch: {files}, binary or over 1 MiB"))


def _with_patch(row: Row, pair: Pair) -> Row:
    """Return a row with its patch as text, and the exact bytes where they are not UTF-8."""
    from envstack.cli.patch import patch

    exact = b"".join(line.data for line in patch(pair))
    shown = {**row, "patch": path_text(exact)}
    if shown["patch"].encode() != exact:
        shown["patch_b64"] = base64.b64encode(exact).decode("ascii")
    return shown
