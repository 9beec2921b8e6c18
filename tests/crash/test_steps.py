"""The daemon is killed at every step that it announces; the next one must keep every promise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from envstack.environment.steps import Step
from tests.crash.crashbox import tree_is_one_of
from tests.crash.daemon import KILL, Order
from tests.crash.operations import OPERATIONS

if TYPE_CHECKING:
    from tests.crash.crashbox import Crashbox
    from tests.crash.operations import Operation

pytestmark = pytest.mark.kernel

RESTART = "restart"
WORK = "work on, restart"
POWER_OFF = "power off"
WORK_AND_POWER_OFF = "work on, power off"
BETWEEN = (RESTART, WORK, POWER_OFF, WORK_AND_POWER_OFF)

_POINTS = [(operation, step, nth) for operation in OPERATIONS for step, nth in operation.points()]

each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda it: it.name)
each_point = pytest.mark.parametrize(
    ("operation", "step", "nth"),
    [pytest.param(*point, id=f"{point[0].name}-{point[1]}-{point[2]}") for point in _POINTS],
)


@each_operation
def test_the_steps_that_are_killed_at_are_those_that_are_announced(
    crashbox: Crashbox, operation: Operation
) -> None:
    operation.prepare(crashbox)
    assert sorted(crashbox.record(lambda: operation.act(crashbox))) == sorted(operation.steps)


def test_there_is_no_step_that_is_not_killed_at() -> None:
    assert {step for _operation, step, _nth in _POINTS} == set(Step)


@each_point
@pytest.mark.parametrize("between", BETWEEN)
def test_a_daemon_killed_at_a_step_breaks_no_promise(
    crashbox: Crashbox, operation: Operation, step: Step, nth: int, between: str
) -> None:
    crash(crashbox, operation, Order(KILL, step, nth), between)


@pytest.mark.parametrize("propagation", ["shared"], indirect=True)
@pytest.mark.parametrize(
    ("operation", "step", "nth"),
    [
        pytest.param(*point, id=f"{point[0].name}-{point[1]}-{point[2]}")
        for point in _POINTS
        if point[0].is_swap
    ],
)
@pytest.mark.usefixtures("propagation")
def test_nor_does_one_under_shared_propagation(
    crashbox: Crashbox, operation: Operation, step: Step, nth: int
) -> None:
    crash(crashbox, operation, Order(KILL, step, nth), WORK)


@each_point
@pytest.mark.parametrize("between", [RESTART, WORK_AND_POWER_OFF])
def test_nor_do_its_successors_killed_at_each_step_of_their_recovery(
    crashbox: Crashbox, operation: Operation, step: Step, nth: int, between: str
) -> None:
    expected = operation.prepare(crashbox)
    crashbox.kill_at(Order(KILL, step, nth), lambda: operation.act(crashbox))
    written = crashbox.work_on() if between == WORK_AND_POWER_OFF else None
    if between == WORK_AND_POWER_OFF:
        crashbox.power_off()
    crashbox.recover_under_fire()
    crashbox.check(expected, written)


def crash(box: Crashbox, operation: Operation, order: Order, between: str) -> None:
    """Kill the daemon in an operation, do what comes between, and check what the next one does."""
    expected = operation.prepare(box)
    if box.kill_at(order, lambda: operation.act(box)):
        expected = replace(expected, outcomes=expected.outcomes[-1:])
    if box.mounts():
        tree_is_one_of(box.shown(), expected.trees)
    else:
        assert not operation.is_swap, "nothing is mounted"
    written = box.work_on() if between in {WORK, WORK_AND_POWER_OFF} else None
    if between in {POWER_OFF, WORK_AND_POWER_OFF}:
        box.power_off()
    box.check(expected, written)
