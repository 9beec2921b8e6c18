"""Which lines differ: right on everything, short on what is small, bounded on what is nasty."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envstack.cli.lines import Span, replaced, split

SECONDS = 20.0
"""Far more than the bound on steps allows, far less than quadratic work takes."""

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


def common(a: Lines, b: Lines) -> int:
    """Return how many lines two texts have in common in the same order, by the plain method."""
    row = [0] * (len(b) + 1)
    for line in a:
        below = [0]
        for index, other in enumerate(b):
            below.append(row[index] + 1 if line == other else max(row[index + 1], below[index]))
        row = below
    return row[-1]


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


@settings(deadline=None)
@given(a=few, b=few)
def test_without_unique_lines_nothing_is_replaced_in_vain(a: Lines, b: Lines) -> None:
    a, b = a + a, b + b  # no line is unique, so that none is taken for an anchor
    kept = len(a) - sum(span.a_stop - span.a_start for span in replaced(a, b))
    assert kept >= common(a, b) - 1


@settings(deadline=None)
@given(st.binary())
def test_lines_end_at_newlines_alone_and_add_up_to_the_text(text: bytes) -> None:
    lines = split(text)
    assert b"".join(lines) == text
    assert all(line.find(b"\n") in (-1, len(line) - 1) and line for line in lines)


@pytest.mark.parametrize("kind", ["two lines at random", "one line for ever", "shuffled"])
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
    }[kind]
    began = time.monotonic()
    assert rebuilt(a, b, replaced(a, b)) == b
    assert time.monotonic() - began < SECONDS
