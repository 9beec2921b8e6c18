"""What `ls` tells besides the status: size, checkpoints, whether the project is still there."""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING

import pytest

from envstack.environment import sizes
from envstack.overlay.usage import Usage
from tests.environment.harness import WITHIN
from tests.support import waiting
from tests.support.edits import write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.environment.harness import Engine, Json

pytestmark = pytest.mark.kernel

MEGABYTE = 1 << 20


def row(engine: Engine) -> Json:
    (found,) = engine.environments()
    return found


def test_a_size_is_that_of_its_own_layers_and_of_the_upper(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(base=[write("large", "x" * MEGABYTE)])
    engine.up()
    empty = row(engine)["size"]
    assert empty < MEGABYTE, "a directory by reference is not its own"
    engine.write("one", "1" * MEGABYTE)
    assert MEGABYTE <= row(engine)["size"] < 2 * MEGABYTE
    engine.checkpoint()
    engine.write("two", "2" * MEGABYTE)
    found = row(engine)
    assert 2 * MEGABYTE <= found["size"] < 3 * MEGABYTE
    assert (found["size_exact"], found["checkpoints"]) == (True, 1)
    assert row(engine)["size"] == found["size"]


def test_without_time_an_upper_has_at_least_so_much_and_layers_are_counted_behind(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.write("one", "1" * MEGABYTE)
    sealed = engine.checkpoint()["id"]
    engine.until_sealed(sealed)
    engine.write("two")
    monkeypatch.setattr(sizes, "_SECONDS", -1.0)
    waiting.until(lambda: row(engine)["size"] is not None, "a size", WITHIN)
    found = row(engine)
    assert found["size"] >= MEGABYTE
    assert not found["size_exact"], "the upper was not counted to its end"


def test_a_sealed_layer_is_counted_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    real = Usage.add_tree

    def add_tree(self: Usage, root: bytes, tick: Callable[[], None]) -> None:
        counted.append(root)
        real(self, root, tick)

    monkeypatch.setattr(Usage, "add_tree", add_tree)
    engine.write("one")
    engine.until_sealed(engine.checkpoint()["id"])
    for _ in range(3):
        row(engine)
    assert sorted(map(counted.count, set(counted))) == [1, 3]


def test_an_environment_whose_project_is_gone_is_still_listed(engine: Engine) -> None:
    engine.down()
    assert row(engine)["stack_exists"]
    shutil.move(engine.project, f"{engine.project}-moved")
    try:
        assert not row(engine)["stack_exists"]
    finally:
        shutil.move(f"{engine.project}-moved", engine.project)


def test_the_end_of_the_service_does_not_wait_for_counting(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.write("one")
    engine.until_sealed(engine.checkpoint()["id"])

    def count_for_ever(_self: Usage, _root: bytes, tick: Callable[[], None]) -> None:
        for _ in itertools.count():
            tick()

    monkeypatch.setattr(Usage, "add_tree", count_for_ever)
    assert row(engine)["size"] is None
    engine.stop()
