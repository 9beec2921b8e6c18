"""`mount: .`: the merged tree lies over the project itself, whose layers no path reaches then."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.environment.harness import Bystander, Engine, mounts_at, nothing_changes, refused
from tests.support import trees
from tests.support.edits import mkdir, remove, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., Engine]
    Run = Callable[..., None]

pytestmark = pytest.mark.kernel

LAYERS = [{"name": "project", "dir": "."}]


@pytest.fixture
def dot(make_engine: Make) -> Engine:
    """A project that is its own only layer, not up yet: `known`, `dir/inner`, the stack file."""
    engine = make_engine(mount=".")
    engine.project.chmod(0o711)
    for edit in (write("known", "known\n"), mkdir("dir"), write("dir/inner", "inner\n")):
        edit(engine.project)
    engine.declare({"layers": LAYERS})
    return engine


@pytest.fixture
def before(dot: Engine) -> trees.Tree:
    """The project as it was."""
    return trees.snapshot(dot.project)


def test_a_whole_life_leaves_the_project_as_it_was(dot: Engine, before: trees.Tree) -> None:
    answer = dot.up()
    assert (answer["state"], answer["mount"]) == ("up", str(dot.project))
    assert mounts_at(dot.project) == [f"envstack:{answer['upper']}"]
    assert trees.snapshot(dot.project) == before
    kept: dict[str, trees.Tree] = {}
    for number in range(4):
        dot.write("known", str(number))
        dot.write(f"new {number}")
        remove("dir")(dot.project)
        write("dir", "a file")(dot.project) if number % 2 else mkdir("dir")(dot.project)
        kept[dot.checkpoint()["id"]] = trees.snapshot(dot.project)
    for rev, tree in kept.items():
        dot.rollback(rev)
        assert trees.snapshot(dot.project) == tree
    dot.rollback("base")
    assert trees.snapshot(dot.project) == before
    os.chmod(dot.project, 0o700)
    dot.down()
    assert mounts_at(dot.project) == []
    assert trees.snapshot(dot.project) == before
    dot.up()
    assert dot.project.stat().st_mode & 0o777 == 0o700
    dot.down(purge=True)
    assert trees.snapshot(dot.project) == before
