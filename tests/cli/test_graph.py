"""The history as a tree: wherever a line is followed, it leads to the parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envstack.cli.graph import ASCII, LINES, Node, Style, draw, style
from tests.cli.harness import checkpoint, logged

if TYPE_CHECKING:
    from tests.cli.harness import Cli, FakeDaemon

Parents = list[int]
"""For each checkpoint, the oldest first, its parent: an earlier one, or -1 for the stack alone."""


@st.composite
def histories(draw: st.DrawFn) -> Parents:
    size = draw(st.integers(1, 25))
    return [draw(st.integers(-1, number - 1)) for number in range(size)]


def name(number: int) -> str:
    return "base" if number < 0 else str(number)


def nodes(parents: Parents, head: int) -> list[Node]:
    rows = [Node(name(n), name(p), n == head) for n, p in enumerate(parents)]
    return [*reversed(rows), Node("base", None, head < 0)]


def lines(parents: Parents, head: int, style: Style) -> list[tuple[str | None, str]]:
    """Return whose row each line of the drawing is, and the line."""
    pictures = draw(nodes(parents, head), style)
    return [(p.node.name if p.node else None, "".join(p.cells)) for p in pictures]


def follow(drawing: list[tuple[str | None, str]], start: int, style: Style) -> str | None:
    """Return where the line leads that begins at the row in line `start`."""
    line = drawing[start][1]
    column = next(at for at, sign in enumerate(line) if sign in (style.node, style.head))
    for owner, line in drawing[start + 1 :]:
        sign = line[column]
        if sign in (style.node, style.head):
            return owner
        if sign == style.end:
            while line[column] != style.join:
                column -= 1
                assert line[column] in (style.across, style.down, style.join), line
        assert line[column] in (style.down, style.join), (line, column)
    return None


@pytest.mark.parametrize("style", [ASCII, LINES], ids=["ascii", "lines"])
@settings(deadline=None)
@given(parents=histories(), head=st.integers(-1, 24))
def test_every_line_leads_to_the_parent(style: Style, parents: Parents, head: int) -> None:
    drawing = lines(parents, head, style)
    rows = [index for index, (owner, _) in enumerate(drawing) if owner is not None]
    assert [drawing[index][0] for index in rows] == [
        *map(name, reversed(range(len(parents)))),
        "base",
    ]
    for index in rows[:-1]:
        owner = drawing[index][0]
        assert owner is not None
        assert follow(drawing, index, style) == name(parents[int(owner)])
    signs = "".join(line for _, line in drawing)
    assert signs.count(style.head) == (head < len(parents))


@settings(deadline=None)
@given(parents=histories())
def test_a_line_is_no_wider_than_there_are_open_branches(parents: Parents) -> None:
    for owner, line in lines(parents, -2, ASCII):
        if owner not in (None, "base"):
            later = range(int(owner), len(parents))
            assert (len(line) + 1) // 2 <= len({parents[n] for n in later}) + 1


def test_a_straight_history_is_one_column() -> None:
    assert [line for _, line in lines([-1, 0, 1], 2, ASCII)] == ["*", "o", "o", "o"]


def test_the_drawing_is_ascii_where_nothing_else_can_be_printed() -> None:
    assert style("ascii") is ASCII
    assert style("no-such-encoding") is ASCII
    assert style("utf-8") is LINES


def test_log_draws_a_tree(cli: Cli, daemon: FakeDaemon) -> None:
    cli.environ["PYTHONIOENCODING"] = "ascii"
    first = checkpoint(1)["id"]
    daemon.answers["env.log"] = [
        logged(4, parent=None, tag="fresh"),
        logged(3, parent=first, head=True),
        logged(2, parent=first),
        logged(1),
    ]
    shown = cli("log", "--graph").out.splitlines()
    assert [line[:15].rstrip() for line in shown] == [
        "o      00000004",
        "| *    00000003",
        "| | o  00000002",
        "| +-'",
        "| o    00000001",
        "+-'",
        "o      base",
    ]
    assert shown[0].endswith("(fresh) number 4")
    assert shown[-1].endswith("the stack alone")


def test_log_shows_the_newest_alone_when_asked(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.log"] = [logged(n, parent=checkpoint(n - 1)["id"]) for n in (3, 2, 1)]
    assert [row["message"] for row in cli("log", "-n", "2", "--json").document] == [
        "number 3",
        "number 2",
    ]
    for form in ((), ("--graph",)):
        shown = cli("log", "-n", "2", *form).out.splitlines()
        assert [line.split()[-1] for line in shown] == ["3", "2"]
    assert cli("log", "-n", "-1").code == 2
    assert cli("log", "-n", "many").code == 2
