"""One environment for all the tests of a module: what they do leaves it as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.running.harness import Environment, bring_up, take_down
from tests.support import needs, trees
from tests.support.profiles import IS_LONG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ground import Ground

collect_ignore = [] if IS_LONG else ["test_apt.py"]
"""It installs a Debian."""


@pytest.fixture(scope="module")
def web(ground: Ground) -> Iterator[Environment]:
    """A plain tree that is up: a directory `sub`, and two variables."""
    if not ground.isolated:
        needs.lack("root (CAP_SYS_ADMIN), which mounting takes")
    project, home = ground.fresh("d"), ground.fresh("h")
    (project / "sub").mkdir(parents=True)
    environment = bring_up(project, home, env={"GREETING": "hello", "EDITOR": "of the stack"})
    yield environment
    take_down(environment)
    trees.remove(project)
    trees.remove(home)
