"""The fixture that all tests of archives unpack in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.archive.harness import Ground

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def ground(directory: Callable[[], Path]) -> Ground:
    """A layer, and beside it a directory with a file and a directory in it."""
    place = directory()
    made = Ground(place / "layer", place / "outside")
    made.layer.mkdir()
    (made.outside / "inner").mkdir(parents=True)
    (made.outside / "secret").write_text("secret\n")
    (made.outside / "inner" / "file").write_text("inner\n")
    return made
