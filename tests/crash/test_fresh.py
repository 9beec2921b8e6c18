"""A daemon killed while it lays a fresh upper over the head breaks no promise."""

from __future__ import annotations

import os
from itertools import cycle

import pytest

from envstack.environment.steps import Step
from tests.crash.crashbox import DOWN, FIRST, UP, Crashbox
from tests.crash.daemon import KILL, Order
from tests.crash.operations import Operation
from tests.crash.promises import Between, Expected
from tests.crash.test_steps import crash
from tests.support.ways import NEWER, OLDER

pytestmark = pytest.mark.kernel


def _repeated(box: Crashbox) -> Expected:
    """Bring it up with a live checkpoint: its upper holds what a layer holds."""
    box.up()
    box.edit(*FIRST)
    tree = box.remember(box.checkpoint("live", mode="live")["id"])
    box.books.wait_until_in_order()
    return Expected(((UP, tree),))


def _repeated_and_down(box: Crashbox) -> Expected:
    ((_state, tree),) = _repeated(box).outcomes
    box.down()
    return Expected(((DOWN, tree), (UP, tree)))


_MOUNTED = (
    *(Step.REGISTER, Step.PREPARE, Step.BUILD, Step.LOCK, Step.BENEATH, Step.DETACH, Step.COMMIT),
    *(Step.SEAL, Step.RECORD, Step.SPARE, Step.DELETE),
)
_DOWN = (
    *(Step.REGISTER, Step.PREPARE, Step.COMMIT, Step.DELETE),
    *(Step.REGISTER, Step.PREPARE, Step.BUILD, Step.ATTACH, Step.COMMIT, Step.SPARE),
    Step.FINGERPRINT,
)

OPERATIONS = (
    Operation("fresh", _repeated, Crashbox.up, _MOUNTED),
    Operation("fresh-while-down", _repeated_and_down, Crashbox.up, _DOWN),
)

POINTS = [(operation, *point) for operation in OPERATIONS for point in operation.points(NEWER)]
BETWEEN = [Between.WORK, Between.POWER_OFF, Between.WORK_AND_POWER_OFF]
ALL = os.environ.get("ENVSTACK_CRASH") == "all"


@pytest.mark.parametrize("way", [NEWER, OLDER], indirect=True)
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_the_steps_that_are_killed_at_are_those_that_are_announced(
    crashbox: Crashbox, operation: Operation, way: str
) -> None:
    operation.prepare(crashbox)
    steps = operation.steps_in(way)
    seen = crashbox.record(lambda: operation.act(crashbox), len(steps))
    assert sorted(seen) == sorted(steps)


@pytest.mark.parametrize(
    ("operation", "step", "nth", "between"),
    [
        pytest.param(*point, between, id=f"{'-'.join(map(str, point))}-{between}")
        for point, one in zip(POINTS, cycle(BETWEEN))
        for between in (BETWEEN if ALL else [one])
    ],
)
def test_a_daemon_killed_at_a_step_breaks_no_promise(
    crashbox: Crashbox, operation: Operation, step: Step, nth: int, between: Between
) -> None:
    crash(crashbox, operation, Order(KILL, step, nth), between)


@pytest.mark.parametrize("way", [OLDER], indirect=True)
@pytest.mark.parametrize("step", [Step.DETACH, Step.ATTACH, Step.COMMIT])
def test_nor_where_mounts_are_exchanged_in_turn(crashbox: Crashbox, way: str, step: Step) -> None:
    crash(crashbox, OPERATIONS[0], Order(KILL, step), Between.WORK)


@pytest.mark.parametrize("crashbox", ["."], indirect=True)
@pytest.mark.parametrize("step", [Step.BENEATH, Step.DETACH, Step.COMMIT])
def test_nor_over_the_project_itself(crashbox: Crashbox, step: Step) -> None:
    crash(crashbox, OPERATIONS[0], Order(KILL, step), Between.RESTART)
    crashbox.down()
    crashbox.check_unmounted()
