"""`diff` at some paths alone: nothing else is found, and nothing else is looked at."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envstack.overlay.diff import LayerTree, differences
from envstack.overlay.wanted import Wanted, absent

if TYPE_CHECKING:
    from pathlib import Path

Trees = tuple[list[LayerTree], list[LayerTree]]

FILES = ["a/b/c", "a/b/d", "a/b-c", "a/e", "ab", "f/g", "h"]


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    """An empty tree, and one with `FILES`."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    for file in FILES:
        path = tmp_path / "new" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return (
        [LayerTree(os.fsencode(tmp_path / "old"))],
        [LayerTree(os.fsencode(tmp_path / "new"))],
    )


def found(trees: Trees, *paths: bytes) -> list[bytes]:
    with closing(differences(*trees, paths)) as rows:
        return [row.change.path for row in rows]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ((b"a/b",), [b"a/b", b"a/b/c", b"a/b/d"]),
        ((b"h", b"a/b/d"), [b"a/b/d", b"h"]),
        ((b"a/b/d", b"a/b"), [b"a/b", b"a/b/c", b"a/b/d"]),
        ((b"a/b/d", b"a/b-c"), [b"a/b-c", b"a/b/d"]),
        ((b"./a//e/",), [b"a/e"]),
        ((b"h/below",), []),
        ((b"nothing",), []),
    ],
)
def test_only_what_is_wanted_is_found(
    trees: Trees, paths: tuple[bytes, ...], expected: list[bytes]
) -> None:
    assert found(trees, *paths) == expected


def test_the_root_is_everything(trees: Trees) -> None:
    assert found(trees, b".", b"h") == found(trees)


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([b"x", b"y", b"z"]), min_size=1, max_size=4), max_size=6))
def test_a_path_below_another_adds_nothing(paths: list[list[bytes]]) -> None:
    joined = [b"/".join(names) for names in paths]
    least = [path for path in joined if not any(path.startswith(other + b"/") for other in joined)]
    assert Wanted(joined) == Wanted(least)


def test_the_walk_ends_as_soon_as_it_is_told_to(trees: Trees) -> None:
    class EnoughError(Exception):
        pass

    left = iter(range(3))

    def tick() -> None:
        if next(left, None) is None:
            raise EnoughError

    with closing(differences(*trees, tick=tick)) as rows, pytest.raises(EnoughError):
        list(rows)


def test_a_path_that_neither_side_shows_is_absent(trees: Trees) -> None:
    asked = [b"a/b/c", b"a/b", b".", b"a/b/c/below", b"nothing", b"a/x"]
    assert absent(trees, asked) == [b"a/b/c/below", b"nothing", b"a/x"]


def test_a_path_under_a_whiteout_is_absent(trees: Trees, tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    os.mknod(tmp_path / "top" / "a", stat.S_IFCHR, os.makedev(0, 0))
    chain = [LayerTree(os.fsencode(tmp_path / "top")), *trees[1]]
    assert absent([chain], [b"a/b/c", b"h"]) == [b"a/b/c"]
