"""Fixtures of the tests of the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import Cli, FakeDaemon, answers
from tests.support import needs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cli(home: Path, project: Path) -> Cli:
    """Runs commands in an empty project, with a store that does not exist yet."""
    if os.geteuid() != 0:
        needs.lack("root, without whom most commands refuse")
    return Cli(project, {"ENVSTACK_HOME": str(home)})


@pytest.fixture
def stack(project: Path) -> Path:
    """The project's stack file."""
    path = project / "envstack.yaml"
    path.write_text("version: 1\nname: web\nlayers:\n  - {name: base, dir: .}\n")
    return path


@pytest.fixture
def daemon(home: Path, stack: Path) -> Iterator[FakeDaemon]:
    """A daemon with a good answer to everything, for a project that has a stack file."""
    with FakeDaemon(home) as daemon:
        daemon.answers.update(answers())
        yield daemon
