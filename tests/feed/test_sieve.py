"""What a subscriber hears of: gitignore patterns, and a prefix."""

from __future__ import annotations

import os
from typing import Any

import pytest

from envstack.errors import UsageError
from envstack.feed.sieve import Sieve
from envstack.model import Change, ChangeType, FileKind
from envstack.rpc.feed import Changes, MountChanged, to_json

TREE = {
    b"a.py": FileKind.FILE,
    b"a.pyc": FileKind.FILE,
    b"src": FileKind.DIR,
    b"src/b.pyc": FileKind.FILE,
    b"src/keep.pyc": FileKind.FILE,
    b"srcs": FileKind.FILE,
    b".git": FileKind.DIR,
    b".git/index": FileKind.FILE,
    b"build": FileKind.FILE,
    b"src/build": FileKind.DIR,
    b"src/build/out": FileKind.FILE,
    b"odd\xff": FileKind.FILE,
}


def heard(sieve: Sieve) -> set[bytes]:
    changes = tuple(Change(path, ChangeType.ADDED, kind) for path, kind in TREE.items())
    event = sieve.sift(to_json(Changes("c", 1, changes)))
    rows: list[dict[str, Any]] = event["changes"] if event else []
    paths = {row["path"] for row in rows}
    return {path for path in TREE if path.decode(errors="replace") in paths}


def test_without_patterns_all_is_heard() -> None:
    assert heard(Sieve([])) == set(TREE)


@pytest.mark.parametrize(
    ("patterns", "left_out"),
    [
        (["*.pyc"], {b"a.pyc", b"src/b.pyc", b"src/keep.pyc"}),
        (["*.pyc", "!keep.pyc"], {b"a.pyc", b"src/b.pyc"}),
        (["/*.pyc"], {b"a.pyc"}),
        ([".git/"], {b".git", b".git/index"}),
        (["build/"], {b"src/build", b"src/build/out"}),
        (["build"], {b"build", b"src/build", b"src/build/out"}),
        (["src/build/", "!src/build/out"], {b"src/build", b"src/build/out"}),
        (["# a comment", ""], set()),
        (["odd*"], {b"odd\xff"}),
        ([os.fsdecode(b"odd\xff")], {b"odd\xff"}),
    ],
)
def test_what_a_pattern_matches_is_left_out_as_git_does(
    patterns: list[str], left_out: set[bytes]
) -> None:
    assert heard(Sieve(patterns)) == set(TREE) - left_out


def test_a_prefix_is_a_directory_with_all_below_it_or_a_file() -> None:
    assert heard(Sieve([], b"src")) == {path for path in TREE if path.split(b"/")[0] == b"src"}
    assert heard(Sieve([], b"build")) == {b"build"}
    assert heard(Sieve(["*.pyc"], b"src")) == {b"src", b"src/build", b"src/build/out"}


def test_an_event_of_which_nothing_is_wanted_is_not_heard_of_and_others_are() -> None:
    sieve = Sieve(["*"])
    assert heard(sieve) == set()
    mount = to_json(MountChanged("c", 1, "swapped"))
    assert sieve.sift(mount) == mount


def test_what_is_no_pattern_is_said_to_be_none() -> None:
    with pytest.raises(UsageError, match="pattern"):
        Sieve(["a", "!"])
