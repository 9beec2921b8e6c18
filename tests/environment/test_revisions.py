"""`diff` between any two points, over the socket, against what was seen."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.support import trees
from tests.support.edits import apply, chmod, mkdir, remove, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.sandbox import Sandbox
    from tests.support.trees import Tree

pytestmark = pytest.mark.kernel


def told(rows: list[dict[str, str]]) -> list[tuple[bytes, str, str]]:
    return [(row["path"].encode(), row["change"], row["kind"]) for row in rows]


def test_every_way_to_name_a_point_is_a_side_of_a_diff(sandbox: Callable[..., Sandbox]) -> None:
    made = sandbox(base=[write("known", "1"), mkdir("dir"), write("dir/inner"), write("gone")])
    made.up()
    seen: dict[str | None, Tree] = {"base": trees.snapshot(made.merged)}
    apply(made.merged, write("known", "2"), remove("gone"), write("new"))
    first = made.checkpoint(tag="first")["id"]
    seen["first"] = seen[first] = seen[first[:8]] = seen["@~1"] = trees.snapshot(made.merged)
    apply(made.merged, remove("dir"), write("dir", "a file now"), write("known", "1"))
    second = made.checkpoint()["id"]
    seen[second] = seen["@"] = trees.snapshot(made.merged)
    apply(made.merged, remove("dir"), mkdir("dir"), write("dir/inner"), chmod("new", 0o600))
    apply(made.merged, write("known", "1"))
    seen[None] = trees.snapshot(made.merged)
    for a, b in product(seen, repeat=2):
        expected = trees.changes(seen[a or "@"], seen[b])
        rows = told(made.diff(a, b))
        assert set(rows) == expected, f"{a} to {b}"
        assert rows == sorted(set(rows)), f"{a} to {b}"


def test_diff_seals_nothing_and_asks_nobody_to_leave(sandbox: Callable[..., Sandbox]) -> None:
    made = sandbox(base=[write("known", "1")])
    made.up()
    with (made.merged / "open").open("w") as file:
        file.write("not closed")
        file.flush()
        before = made.status()["upper"]
        assert told(made.diff()) == [(b"open", "added", "file")]
        assert made.status()["upper"] == before
        assert made.log() == []
