"""Which lines differ: right on everything, short on what is small, bounded on what is nasty."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envstack.cli.lines import Span, replaced, split

SECONDS = 20.0
"""Far more than the bound on work allows, far less than work without it takes."""

Lines = list[bytes]

few = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n"]), max_size=14)
many = st.lists(st.binary(max_size=2).map(lambda text: text + b"\n"), max_size=60)


def rebuilt(a: Lines, b: Lines, spans: list[Span]) -> Lines:
    """Return `a` with its spans replaced, which must follow one another."""
    result: Lines = []
    at = 0
    for span in spans:
        assert span.a_start > at or not result
        result += a[at : span.a_start]
        assert len(result) == span.b_start
        result += b[span.b_start : span.b_stop]
        at = span.a_stop
    return result + a[at:]


@settings(deadline=None)
@given(a=few | many, b=few | many)
def test_replacing_the_spans_gives_the_other_text(a: Lines, b: Lines) -> None:
    assert rebuilt(a, b, replaced(a, b)) == b


@settings(deadline=None)
@given(text=many, edits=st.lists(st.tuples(st.integers(0, 60), st.binary(max_size=3)), max_size=5))
def test_an_edited_text_is_rebuilt(text: Lines, edits: list[tuple[int, bytes]]) -> None:
    edited = list(text)
    for where, line in edits:
        edited[where : where + len(line) % 2] = [line + b"\n"]
    assert rebuilt(text, edited, replaced(text, edited)) == edited


@pytest.mark.parametrize("count", [60, 20_000])
def test_what_was_not_edited_stays_though_most_lines_are_alike(count: int) -> None:
    text = [line for n in range(count) for line in (b"%d {\n" % n, b"\n", b"}\n")]
    edited = list(text)
    places = range(3, 3 * count, 3 * count // 20)
    for place in places:
        edited[place] = b"edited\n"
    assert replaced(text, edited) == [Span(at, at + 1, at, at + 1) for at in places]


@settings(deadline=None)
@given(st.binary())
def test_lines_end_at_newlines_alone_and_add_up_to_the_text(text: bytes) -> None:
    lines = split(text)
    assert b"".join(lines) == text
    assert all(line.find(b"\n") in (-1, len(line) - 1) and line for line in lines)


@pytest.mark.parametrize(
    "kind", ["two lines at random", "one line for ever", "shuffled", "every other line"]
)
def test_nasty_texts_end_in_time(kind: str) -> None:
    dice = random.Random(7)
    a, b = {
        "two lines at random": [
            [dice.choice([b"x\n", b"y\n"]) for _ in range(200_000)] for _ in "ab"
        ],
        "one line for ever": [[b"\n"] * 500_000, [b"\n"] * 200_000 + [b"z\n"] + [b"\n"] * 200_000],
        "shuffled": [
            dice.sample(lines := [b"%d\n" % n for n in range(50_000)], len(lines)) for _ in "ab"
        ],
        "every other line": [
            [line for n in range(60_000) for line in (b"%d\n" % n, b"%s%d\n" % (side, n))]
            for side in (b"a", b"b")
        ],
    }[kind]
    began = time.monotonic()
    assert rebuilt(a, b, replaced(a, b)) == b
    assert time.monotonic() - began < SECONDS
