"""At no instant is the mount point empty; on older kernels it is, for a short one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.environment.harness import mounts_at
from tests.support import ways

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

MEASURE = """
import time
path, input, gaps, missed, since = T + '/known', select.poll(), [], set(), None
input.register(sys.stdin, select.POLLIN)
while not input.poll(0):
    for _ in range(200):
        try:
            os.stat(path)
        except OSError as error:
            missed.add(errno.errorcode[error.errno])
            since = since or time.monotonic()
        else:
            if since:
                gaps.append(time.monotonic() - since)
            since = None
answer = [gaps, sorted(missed)]
"""
"""Measures how long each gap is, until the next line comes in."""

ROUNDS, FEWER = 100, 25


def checkpoint_and_roll_back(engine: Engine, rounds: int = ROUNDS) -> None:
    """Make two swaps a round, one of them backwards."""
    for number in range(rounds):
        engine.write("file", str(number))
        engine.checkpoint()
        engine.write("file", "unsealed")
        engine.rollback("@~1" if number % 4 else "base", discard=True)


GAP = 0.05
"""Seconds: how long a swap may leave nothing mounted where it cannot be from beneath; it takes less
than a millisecond, but for what else the machine does."""


def looked(watcher: Bystander) -> None:
    watcher.begin("pass")
    looks, missed = watcher.end()
    watcher.end()
    assert looks > ROUNDS, "it was looking all the time"
    assert not missed, f"{len(missed)} of {looks} looks met {set(missed)}"


@pytest.mark.parametrize("way", [ways.NEWER], indirect=True)
def test_a_busy_process_finds_a_file_at_every_instant_of_200_swaps(
    engine: Engine, bystander: Start, propagation: str
) -> None:
    watcher = bystander()
    watcher.begin(LOOK)
    checkpoint_and_roll_back(engine)
    looked(watcher)


@pytest.mark.parametrize("way", [ways.NEWER], indirect=True)
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


@pytest.mark.parametrize("way", [ways.OLDER], indirect=True)
def test_where_it_cannot_be_from_beneath_the_gap_is_short(
    engine: Engine, bystander: Start, propagation: str
) -> None:
    watcher = bystander()
    watcher.begin(MEASURE)
    checkpoint_and_roll_back(engine, FEWER)
    watcher.begin("pass")
    gaps, missed = watcher.end()
    watcher.end()
    assert missed in ([], ["ENOENT"]), "nothing but the mount point itself is seen"
    assert len(gaps) <= 2 * FEWER
    median = sorted([0.0, *gaps])[len(gaps) // 2]
    assert median < GAP, f"{len(gaps)} gaps, {median * 1000:.1f} ms at the median: {gaps}"


def test_a_swap_leaves_nothing_under_or_over_the_new_mount(
    engine: Engine, propagation: str
) -> None:
    for number in range(5):
        engine.write("file", str(number))
        engine.checkpoint()
        assert mounts_at(engine.merged) == [f"envstack:{engine.status()['upper']}"]
