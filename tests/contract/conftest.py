"""The contract holds whichever way checkpoints are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import ways
from tests.support.judge import Judge
from tests.support.profiles import IS_LONG
from tests.support.story import Story

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.edits import Edit
    from tests.support.sandbox import Sandbox

LIVE = "live"


@pytest.fixture(params=["auto", LIVE])
def story(
    sandbox: Callable[..., Sandbox], directory: Callable[[], Path], request: pytest.FixtureRequest
) -> Callable[..., Story]:
    """`story(base=[edits], …)` as everywhere, for each mode of its checkpoints."""
    mode: str = request.param

    def make(**layers: list[Edit]) -> Story:
        judged = [edits for name, edits in layers.items() if name != "store"]
        return Story(sandbox(**layers), Judge(directory() / "judge", *judged), mode)

    return make


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, but in the long run, what a live checkpoint has nothing to do with.

    That is how mounts are exchanged, and everything but the trees that come of it.
    """
    left_out = [] if IS_LONG else [item for item in items if _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_left_out(item: pytest.Item) -> bool:
    called = getattr(item, "callspec", None)
    if called is None or called.params.get("story") != LIVE:
        return False
    is_tree = item.path.name == "test_trees.py" and "128" not in item.name
    params = called.params
    return not is_tree or params["way"] != ways.NEWER or params.get("propagation") == "shared"
