"""Names, ages and columns for people, on their own."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envstack.cli import text

DAY = 86400


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"src/a.py", "src/a.py"),
        ("grün/東".encode(), "grün/東"),
        (b"two words", "two words"),
        (b"back\\slash", "back\\slash"),
        (b"a\nb", '"a\\nb"'),
        (b"\x1b[31mred", '"\\e[31mred"'),
        (b"\xff\xfe", '"\\xff\\xfe"'),
        (b'"quoted"', '"\\"quoted\\""'),
        (b" leading", '" leading"'),
        (b"both\\\n", '"both\\\\\\n"'),
        ("\u202egpj.exe".encode(), '"\\u202egpj.exe"'),
        ("\x9b31m".encode(), '"\\u009b31m"'),
    ],
)
def test_a_name_is_plain_or_else_quoted(path: bytes, shown: str) -> None:
    assert text.name(os.fsdecode(path)) == shown


@given(st.binary(max_size=40))
def test_no_name_reaches_a_terminal_with_a_control_character(path: bytes) -> None:
    assert text.name(os.fsdecode(path)).isprintable()


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_two_names_never_look_the_same(a: bytes, b: bytes) -> None:
    assert (text.name(os.fsdecode(a)) == text.name(os.fsdecode(b))) == (a == b)


def test_the_exact_bytes_of_a_path_are_shown() -> None:
    assert text.path_of({"path": "\ufffd", "path_b64": "/w=="}) == '"\\xff"'
    assert text.path_of({"path": "a"}, "/") == "a/"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "just now"),
        (4.9, "just now"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (2 * 3600, "2 hours ago"),
        (DAY, "1 day ago"),
        (13 * DAY, "1 week ago"),
        (60 * DAY, "2 months ago"),
        (800 * DAY, "2 years ago"),
    ],
)
def test_an_age_is_in_the_largest_unit_that_fits(seconds: float, words: str) -> None:
    assert text.age(seconds) == words


def test_columns_stand_under_one_another_whatever_their_colour_and_script() -> None:
    rows = [["ab", "x"], [text.coloured("red", "a"), "x"], ["東", "x"], ["e\u0301", "x"]]
    lines = list(text.columns(rows))
    assert lines == ["ab  x", "\x1b[31ma\x1b[0m   x", "東  x", "e\u0301   x"]


def test_only_the_first_line_of_a_message_is_a_title() -> None:
    assert text.title("one\ntwo") == "one …"
    assert text.title("  one\x1b[2J \n") == "one\\e[2J"
