"""At no instant is the mount point empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.environment.harness import mounts_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.environment.harness import Bystander, Engine

    Start = Callable[[], Bystander]

pytestmark = pytest.mark.kernel

LOOK = """
path, input, looks, missed = T + '/known', select.poll(), 0, []
input.register(sys.stdin, select.POLLIN)
while not input.poll(0):
    for _ in range(200):
        looks += 1
        try:
            os.stat(path)
        except OSError as error:
            missed.append(errno.errorcode[error.errno])
answer = [looks, missed]
"""
"""Looks until the next line comes in."""

ROUNDS = 100


def checkpoint_and_roll_back(engine: Engine) -> None:
    """Make 200 swaps, half of them backwards."""
    for number in range(ROUNDS):
        engine.write("file", str(number))
        engine.checkpoint()
        engine.write("file", "unsealed")
        engine.rollback("@~1" if number % 4 else "base", discard=True)


def looked(watcher: Bystander) -> None:
    watcher.begin("pass")
    looks, missed = watcher.end()
    watcher.end()
    assert looks > ROUNDS, "it was looking all the time"
    assert not missed, f"{len(missed)} of {looks} looks met {set(missed)}"


def test_a_busy_process_finds_a_file_at_every_instant_of_200_swaps(
    engine: Engine, bystander: Start, propagation: str
) -> None:
    watcher = bystander()
    watcher.begin(LOOK)
    checkpoint_and_roll_back(engine)
    looked(watcher)


@pytest.mark.parametrize("propagation", ["shared"], indirect=True)
def test_so_does_one_in_a_namespace_that_follows_this_one(
    propagation: str, engine: Engine, bystander: Start
) -> None:
    service = bystander()
    service.enter_namespace("slave")
    service.begin(LOOK)
    checkpoint_and_roll_back(engine)
    looked(service)
    engine.write("file", "the last")
    assert service.do("answer = open(T + '/file').read()") == "the last"


def test_a_swap_leaves_nothing_under_or_over_the_new_mount(
    engine: Engine, propagation: str
) -> None:
    for number in range(5):
        engine.write("file", str(number))
        engine.checkpoint()
        assert mounts_at(engine.merged) == [f"envstack:{engine.status()['upper']}"]
