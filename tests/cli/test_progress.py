"""Progress and words on standard error: one line in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from typing import TYPE_CHECKING

import pytest

from envstack.cli.progress import ProgressLine
from envstack.rpc.messages import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COLUMNS = 40


def screen(said: str) -> list[str]:
    """Return what a terminal shows that was told `said`, its empty lines aside."""
    lines = [re.sub(r".*\r\x1b\[2K", "", line) for line in said.split("\n")]
    assert not any("\x1b" in line or "\r" in line for line in lines), said
    return [line for line in lines if line]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def terminal(said: list[str]) -> Iterator[ProgressLine]:
    """A progress line on a terminal of 40 columns."""
    own, its = pty.openpty()
    try:
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        yield ProgressLine(said.append, its)
    finally:
        os.close(own)
        os.close(its)


@pytest.fixture
def plain(said: list[str]) -> ProgressLine:
    return ProgressLine(said.append, None)


def test_with_a_known_end_there_is_a_bar(terminal: ProgressLine, said: list[str]) -> None:
    terminal.update(Progress("copying", 1, 4))
    assert screen("".join(said)) == ["copying [#####...............] 1 of 4"]


def test_without_an_end_there_is_a_number(terminal: ProgressLine, said: list[str]) -> None:
    terminal.update(Progress("copying", 1234))
    assert screen("".join(said)) == ["copying 1,234"]


@pytest.mark.parametrize(("done", "total"), [(0, 0), (9, 4), (0, 10**12)])
def test_no_number_breaks_the_bar(
    terminal: ProgressLine, said: list[str], done: int, total: int
) -> None:
    terminal.update(Progress("x", done, total))
    assert len(screen("".join(said))) == 1


def test_the_line_never_reaches_the_edge_of_the_terminal(
    terminal: ProgressLine, said: list[str]
) -> None:
    terminal.update(Progress("x" * 200, 1, 2))
    assert [len(line) for line in screen("".join(said))] == [COLUMNS - 1]


def test_it_is_not_drawn_for_every_step(terminal: ProgressLine, said: list[str]) -> None:
    for done in range(10_000):
        terminal.update(Progress("counting", done, 10_000))
    assert 1 <= len(said) < 1000


def test_a_new_phase_is_drawn_at_once(terminal: ProgressLine, said: list[str]) -> None:
    terminal.update(Progress("one"))
    terminal.update(Progress("two"))
    assert screen("".join(said)) == ["two"]


def test_what_a_command_says_scrolls_above_the_line(
    terminal: ProgressLine, said: list[str]
) -> None:
    terminal.update(Progress("layer 1 of 2: deps"))
    terminal.stream("Collecting foo\nInstal")
    assert screen("".join(said)) == ["Collecting foo", "layer 1 of 2: deps"]
    terminal.stream("ling\n")
    assert screen("".join(said)) == ["Collecting foo", "Installing", "layer 1 of 2: deps"]
    terminal.update(Progress("layer 2 of 2: tools"))
    assert screen("".join(said))[-1] == "layer 2 of 2: tools"
    terminal.stream("no newline")
    terminal.clear()
    assert screen("".join(said)) == ["Collecting foo", "Installing", "no newline"]


@pytest.mark.parametrize("kind", ["terminal", "plain"])
def test_what_a_command_says_harms_no_terminal(
    request: pytest.FixtureRequest, said: list[str], kind: str
) -> None:
    line: ProgressLine = request.getfixturevalue(kind)
    line.stream("\x1b[2Jbad\x07\tgood\n10%\r20%\r\n\n")
    assert "".join(said) == "\\e[2Jbad\\x07\tgood\n20%\n\n"


def test_a_line_without_end_is_not_kept_for_ever(plain: ProgressLine, said: list[str]) -> None:
    for _ in range(300):
        plain.stream("x" * 1000)
    assert len("".join(said)) > 200_000


def test_elsewhere_a_phase_is_one_plain_line(plain: ProgressLine, said: list[str]) -> None:
    for done in range(3):
        plain.update(Progress("copying", done, 3))
    plain.update(Progress("mounting"))
    plain.stream("words\n")
    plain.clear()
    assert "".join(said) == "copying\nmounting\nwords\n"


def test_elsewhere_phases_that_rush_by_do_not_bury_the_rest(
    plain: ProgressLine, said: list[str]
) -> None:
    for number in range(5000):
        plain.update(Progress(f"phase {number}"))
    assert 10 < len(said) < 100


@pytest.mark.parametrize("act", [ProgressLine.clear, lambda line: line.stream("")])
def test_nothing_said_writes_nothing(
    terminal: ProgressLine, said: list[str], act: Callable[[ProgressLine], None]
) -> None:
    act(terminal)
    assert said == []
