"""The daemon is killed at every step that it announces; the next one must keep every promise."""

from __future__ import annotations

import os
from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from envstack.environment.steps import Step
from tests.crash.daemon import KILL, Order
from tests.crash.operations import BY_NAME, OPERATIONS
from tests.crash.promises import Between, check, check_tree
from tests.crash.told import Told
from tests.support.ways import NEWER, OLDER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.crash.crashbox import Crashbox
    from tests.crash.operations import Operation

pytestmark = pytest.mark.kernel

Point = tuple["Operation", Step, int]

POINTS: list[Point] = [
    (operation, step, nth) for operation in OPERATIONS for step, nth in operation.points(NEWER)
]
IN_TURN: list[Point] = [
    (operation, step, nth)
    for operation in OPERATIONS
    if operation.is_swap
    for step, nth in operation.points(OLDER)
]
"""The same where the kernel cannot mount beneath, as far as it differs."""

ALL = os.environ.get("ENVSTACK_CRASH") == "all"
"""The long run: everything with everything. The ordinary one leaves out what differs least."""

WITH_INTENT = {
    *(Step.PREPARE, Step.BUILD, Step.ATTACH, Step.LOCK, Step.BENEATH, Step.DETACH),
    *(Step.UNMOUNT, Step.APPLY, Step.COMMIT),
}
"""Steps at which an intent is open, so that what is mounted or written decides what happened."""

AT_THE_MOUNT = (Step.ATTACH, Step.LOCK, Step.BENEATH, Step.DETACH, Step.COMMIT)
"""Steps next to which the mount table is another one."""


MIDDLE = 4
"""Which of the paths that are put right one by one stands for all in the ordinary run."""


def is_usual(point: Point) -> bool:
    """Whether the ordinary run has it: of what is gradual, what differs from all else."""
    operation, step, nth = point
    if ALL or not operation.is_gradual:
        return True
    is_telling = step is not Step.APPLY or nth == MIDDLE
    return is_telling and (
        operation.is_under_way(step, nth) or step in {Step.COMPARE, Step.REGISTER}
    )


def points(chosen: Iterable[Point]) -> pytest.MarkDecorator:
    """Parametrize with these points."""
    return pytest.mark.parametrize(
        ("operation", "step", "nth"),
        [pytest.param(*point, id=f"{point[0]}-{point[1]}-{point[2]}") for point in chosen],
    )


def crash(box: Crashbox, operation: Operation, order: Order, between: Between) -> None:
    """Kill the daemon in an operation, do what comes between, and check what the next one does."""
    expected = operation.prepare(box)
    told = Told(box)
    if box.kill_at(order, lambda: operation.act(box)):
        expected = expected.done
    if box.mounts():
        if not operation.is_gradual:
            check_tree(box, expected.trees)
    else:
        is_in_gap = box.way == OLDER and order.at == Step.ATTACH
        assert is_in_gap or not operation.is_swap, "nothing is mounted"
    written = between.pass_by(box)
    if operation.is_under_way(order.at, order.nth):
        check(box, expected.done.kept(written))
    else:
        check(box, expected, written)
    if operation.is_told:
        told.check()


@pytest.mark.parametrize("way", [NEWER, OLDER], indirect=True)
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_the_steps_that_are_killed_at_are_those_that_are_announced(
    crashbox: Crashbox, operation: Operation, way: str
) -> None:
    operation.prepare(crashbox)
    steps = operation.steps_in(way)
    seen = crashbox.record(lambda: operation.act(crashbox), len(steps))
    assert sorted(seen) == sorted(steps)


def test_there_is_no_step_that_is_not_killed_at() -> None:
    assert {step for _operation, step, _nth in POINTS} == set(Step)


@pytest.mark.parametrize("between", [Between.WORK, Between.POWER_OFF])
@points(point for point in POINTS if ALL or (point[1] in WITH_INTENT and is_usual(point)))
def test_a_daemon_killed_at_a_step_breaks_no_promise(
    crashbox: Crashbox, operation: Operation, step: Step, nth: int, between: Between
) -> None:
    crash(crashbox, operation, Order(KILL, step, nth), between)


@pytest.mark.parametrize(
    ("point", "between"),
    [
        pytest.param(point, between, id=f"{'-'.join(map(str, point))}-{between}")
        for point, between in zip(
            (point for point in POINTS if point[1] not in WITH_INTENT and is_usual(point)),
            cycle([Between.WORK, Between.POWER_OFF]),
        )
    ],
)
def test_nor_does_one_killed_while_no_intent_is_open(
    crashbox: Crashbox, point: Point, between: Between
) -> None:
    operation, step, nth = point
    crash(crashbox, operation, Order(KILL, step, nth), between)


@pytest.mark.parametrize("way", [OLDER], indirect=True)
@pytest.mark.parametrize("between", [Between.WORK, Between.POWER_OFF])
@points(point for point in IN_TURN if ALL or point[1] in {Step.DETACH, Step.ATTACH, Step.COMMIT})
def test_nor_where_mounts_are_exchanged_in_turn(
    crashbox: Crashbox, operation: Operation, step: Step, nth: int, between: Between
) -> None:
    crash(crashbox, operation, Order(KILL, step, nth), between)


@points(point for point in POINTS if ALL or (point[1] in WITH_INTENT and is_usual(point)))
def test_nor_if_the_user_writes_before_the_machine_goes_down(
    crashbox: Crashbox, operation: Operation, step: Step, nth: int
) -> None:
    crash(crashbox, operation, Order(KILL, step, nth), Between.WORK_AND_POWER_OFF)


@pytest.mark.parametrize("propagation", ["shared"], indirect=True)
@pytest.mark.usefixtures("propagation")
@points(point for point in POINTS if ALL or (point[0].is_swap and point[1] in AT_THE_MOUNT))
def test_nor_under_shared_propagation(
    crashbox: Crashbox, operation: Operation, step: Step, nth: int
) -> None:
    crash(crashbox, operation, Order(KILL, step, nth), Between.RESTART)


@pytest.mark.parametrize("crashbox", ["."], indirect=True)
@pytest.mark.parametrize(
    "between", [Between.RESTART, *[Between.WORK, Between.WORK_AND_POWER_OFF] * ALL]
)
@points(
    point
    for point in POINTS
    if (ALL or (point[1] in WITH_INTENT | {Step.COUNT} and is_usual(point)))
    and not point[0].name.startswith("relay")  # they change what no path leads to then
)
def test_nor_over_the_project_itself(
    crashbox: Crashbox, operation: Operation, step: Step, nth: int, between: Between
) -> None:
    crash(crashbox, operation, Order(KILL, step, nth), between)
    crashbox.down()
    crashbox.check_unmounted()


@pytest.mark.parametrize(
    ("crashbox", "between"),
    [
        (".envstack/merged", Between.RESTART),
        (".envstack/merged", Between.POWER_OFF),
        (".", Between.RESTART),
    ],
    indirect=["crashbox"],
)
@points(
    point
    for point in POINTS
    if ALL
    or (
        point[0]
        in {BY_NAME["up-with-a-copy"], BY_NAME["checkpoint"], BY_NAME["rollback-with-saved"]}
        and point[1] in {Step.PUBLISH, Step.BENEATH, Step.DETACH, Step.COMMIT, Step.SEAL}
    )
    or (point[0] is BY_NAME["rollback-in-place"] and point[1:] == (Step.APPLY, MIDDLE))
)
def test_nor_do_its_successors_killed_at_each_step_of_their_recovery(
    crashbox: Crashbox, operation: Operation, step: Step, nth: int, between: Between
) -> None:
    expected = operation.prepare(crashbox)
    told = Told(crashbox)
    crashbox.kill_at(Order(KILL, step, nth), lambda: operation.act(crashbox))
    between.pass_by(crashbox)
    crashbox.recover_under_fire()
    check(crashbox, expected)
    if operation.is_told:
        told.check()
