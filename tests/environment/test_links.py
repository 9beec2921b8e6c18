"""Names of one file are names of one file in a checkpoint, however it was made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support import chains, trees
from tests.support.edits import apply, link, write

if TYPE_CHECKING:
    from pathlib import Path

    from tests.environment.harness import Engine
    from tests.support.edits import Edit

pytestmark = pytest.mark.kernel


@pytest.fixture(params=["newer"])
def way(request: pytest.FixtureRequest) -> str:
    """One way of mounting: nothing is mounted by a live checkpoint."""
    name: str = request.param
    return name


def split(path: str) -> Edit:
    """Make a name one of a file of its own, with the same content and metadata."""

    def edit(root: Path) -> None:
        trees.duplicate(root / path, root / "other")
        os.rename(root / "other", root / path)

    return edit


LINKED: dict[str, tuple[list[Edit], list[Edit]]] = {
    "a name is added": ([write("a", "one")], [link("a", "b")]),
    "a name takes the place of a file that is the same": (
        [write("a", "one"), write("b", "one")],
        [lambda root: os.unlink(root / "b"), link("a", "b")],
    ),
    "a name becomes a file of its own": ([write("a", "one"), link("a", "b")], [split("b")]),
    "one of three is written": (
        [write("a", "one"), link("a", "b"), link("a", "c")],
        [split("b"), write("b", "two")],
    ),
}


@pytest.mark.parametrize("kind", LINKED)
@pytest.mark.parametrize("is_recorded", [True, False], ids=["by record", "by comparison"])
def test_a_live_checkpoint_has_the_links_of_the_tree(
    engine: Engine, kind: str, is_recorded: bool
) -> None:
    before, after = LINKED[kind]
    apply(engine.merged, *before)
    engine.checkpoint(mode="live")
    if not is_recorded:
        apply(engine.merged, write("elsewhere"))
        engine.rollback(mode="in-place")
    apply(engine.merged, *after)
    was = trees.snapshot(engine.merged)
    rev = engine.checkpoint(mode="live")["id"]
    with chains.mounted(engine.home, rev) as tree:
        assert trees.differences(trees.snapshot(tree), was) == []
