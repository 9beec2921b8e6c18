"""A new user's first minutes: a bare Debian 12, a clone, and the two commands of the README."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support import checkout, trees
from tests.support.debian import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SOME_TESTS = "tests/stackfile tests/environment/test_up.py"
"""All of them would take as long again as the run that this one is part of."""

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture
def bare(project: Path) -> Iterator[Root]:
    """A bare Debian 12 with a clone of this repository in root's home."""
    root = Root(project / "root")
    checkout.clone(root.place / "root/envstack")
    yield root
    trees.remove(root.place)


def test_both_commands_of_the_readme_set_up_what_they_need(bare: Root) -> None:
    bare.run("! command -v python3 && ! command -v git")

    shown = bare.run("cd ~/envstack && stacks/demo")
    assert "the tests fail" in shown
    assert shown.endswith("envstack down --purge\nrepository is deleted, with its history\n")

    shown = bare.run(f"cd ~/envstack && CI=true tests/run -q {_SOME_TESTS}")
    assert re.search(r"\d+ passed", shown)
    assert "skipped" not in shown
