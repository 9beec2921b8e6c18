"""The contract holds whichever way checkpoints are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.judge import Judge
from tests.support.story import Story

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.edits import Edit
    from tests.support.sandbox import Sandbox


@pytest.fixture(params=["auto", "live"])
def story(
    sandbox: Callable[..., Sandbox], directory: Callable[[], Path], request: pytest.FixtureRequest
) -> Callable[..., Story]:
    """`story(base=[edits], …)` as everywhere, for each mode of its checkpoints."""
    mode: str = request.param

    def make(**layers: list[Edit]) -> Story:
        judged = [edits for name, edits in layers.items() if name != "store"]
        return Story(sandbox(**layers), Judge(directory() / "judge", *judged), mode)

    return make
