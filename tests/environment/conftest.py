"""Fixtures of the tests of one environment's life."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.environment.harness import Bystander, Engine
from tests.support.edits import mkdir, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def make_engine(
    home: Path, project: Path, filesystem: Callable[[str], Path], way: str
) -> Iterator[Callable[..., Engine]]:
    """`make_engine(base=[edits], …, store=…, project=…, mount=…)` makes one that is not up yet."""
    default = project
    with ExitStack() as stack:

        def make(
            *,
            store: Path = home,
            project: Path = default,
            mount: str = ".envstack/merged",
            **layers: Any,
        ) -> Engine:
            return stack.enter_context(Engine(store, project, layers, mount, way))

        yield make


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    """An environment that is up: `known` and `dir/inner` are of its only layer."""
    made = make_engine(
        base=[write("known", "known\n"), mkdir("dir"), write("dir/inner", "inner\n")]
    )
    made.up()
    return made


@pytest.fixture
def bystander(engine: Engine) -> Iterator[Callable[[], Bystander]]:
    """`bystander()` starts another process; it ends before the environment does."""
    with ExitStack() as stack:

        def start() -> Bystander:
            started = Bystander(engine.merged)
            stack.callback(started.close)
            return started

        yield start


@pytest.fixture
def run() -> Callable[..., None]:
    """`run(PROGRAM, ARGUMENT…)` runs a program, which must succeed."""

    def run(*command: str | Path) -> None:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return run
