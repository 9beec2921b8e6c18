"""Several clients ask at once: one after the other is served, and history tells of each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from envstack.client import RemoteError
from envstack.environment.steps import Step
from tests.crash.crashbox import DOWN, FIRST, SECOND, THIRD, UP
from tests.crash.pauses import SWAP, WITHIN, paused
from tests.crash.promises import Expected, check, check_tree
from tests.support import waiting
from tests.support.edits import apply, write

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tests.crash.crashbox import Crashbox

pytestmark = pytest.mark.kernel

each_step = pytest.mark.parametrize("step", SWAP)


def queued(box: Crashbox, pool: ThreadPoolExecutor, method: str) -> Future[Any]:
    """Ask for something, and return when the daemon knows that it is asked for."""
    log = box.home / "daemon.log"
    line = f"asks for env.{method}\n"
    before = log.read_text().count(line)
    answer = pool.submit(box.ask, method)
    waiting.until(lambda: log.read_text().count(line) > before, line)
    assert not answer.done()
    return answer


@pytest.fixture
def box(crashbox: Crashbox) -> Crashbox:
    """An environment with one checkpoint, and changes after it."""
    crashbox.up()
    crashbox.edit(*FIRST)
    crashbox.remember(crashbox.checkpoint("first", tag="first")["id"])
    crashbox.edit(*SECOND)
    crashbox.books.wait_until_in_order()
    return crashbox


def test_many_checkpoints_at_once_make_one_line_of_history(box: Crashbox) -> None:
    box.books.wait_until_in_order()
    tree = box.judge.now()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: box.ask("checkpoint", message=str(n)), range(24)))
    log = box.log()
    assert {row["id"] for row in answers} == {row["id"] for row in log[:-1]}
    assert [row["parent"] for row in log] == [row["id"] for row in log[1:]] + [None]
    box.known |= {row["id"]: tree for row in reversed(log[:-1])}
    check(box, Expected(((UP, tree),)))


def test_checkpoints_one_right_after_the_other_each_have_their_tree(box: Crashbox) -> None:
    for number in range(20):
        box.edit(write(f"number {number}"))
        box.remember(box.checkpoint(str(number))["id"])
    check(box, Expected(((UP, box.judge.now()),)))


def test_rollbacks_one_right_after_the_other_each_bring_their_tree(box: Crashbox) -> None:
    box.remember(box.checkpoint("second")["id"])
    for number in range(20):
        rev, tree = list(box.known.items())[number % 3]
        apply(box.merged, write(f"number {number}"))
        unsealed = box.shown()
        saved = box.rollback(rev, discard=number % 2 == 0)["saved"]
        check_tree(box, [tree])
        if saved:
            box.known[saved] = unsealed
    check(box, Expected(((UP, tree),)))


@each_step
def test_whoever_looks_during_a_checkpoint_waits_for_nobody(box: Crashbox, step: Step) -> None:
    tree = box.judge.now()
    with paused(box, step, "checkpoint") as answer:
        assert box.status()["state"] == UP
        check_tree(box, [tree])
    box.known[answer.result(WITHIN)["id"]] = tree
    check(box, Expected(((UP, tree),)))


def test_whoever_looks_while_much_happens_sees_it_up(box: Crashbox) -> None:
    def look(_number: int) -> str:
        return str(box.ask("status")["state"])

    with ThreadPoolExecutor(3) as pool:
        seen = pool.map(look, range(400))
        for number in range(40):
            box.edit(write(f"number {number}"))
            box.remember(box.checkpoint(str(number))["id"])
        assert set(seen) == {UP}
    check(box, Expected(((UP, box.judge.now()),)))


@each_step
def test_a_checkpoint_during_a_rollback_comes_after_it(box: Crashbox, step: Step) -> None:
    unsealed = box.judge.now()
    with (
        ThreadPoolExecutor(1) as pool,
        paused(box, step, "rollback", rev="first") as rolled_back,
    ):
        made = queued(box, pool, "checkpoint")
    first = box.known[rolled_back.result(WITHIN)["to"]]
    box.known[rolled_back.result()["saved"]] = unsealed
    box.known[made.result(WITHIN)["id"]] = first
    assert made.result()["parent"] == rolled_back.result()["to"]
    check(box, Expected(((UP, first),)))


@each_step
@pytest.mark.parametrize("method", ["checkpoint", "rollback"])
def test_down_during_another_operation_comes_after_it(
    box: Crashbox, method: str, step: Step
) -> None:
    unsealed = box.judge.now()
    with ThreadPoolExecutor(1) as pool, paused(box, step, method) as done:
        went_down = queued(box, pool, "down")
    answer = done.result(WITHIN)
    if method == "checkpoint":
        box.known[answer["id"]] = tree = unsealed
    else:
        box.known[answer["saved"]] = unsealed
        tree = box.known[answer["to"]]
    assert went_down.result(WITHIN)["state"] == DOWN
    check(box, Expected(((DOWN, tree),)))


@pytest.mark.parametrize("step", [Step.REGISTER, Step.UNMOUNT, Step.COMMIT])
@pytest.mark.parametrize("method", ["checkpoint", "rollback"])
def test_what_comes_after_a_down_is_told_that_it_is_not_up(
    box: Crashbox, method: str, step: Step
) -> None:
    with ThreadPoolExecutor(1) as pool, paused(box, step, "down") as went_down:
        refused = queued(box, pool, method)
    assert went_down.result(WITHIN)["state"] == DOWN
    with pytest.raises(RemoteError) as told:
        refused.result(WITHIN)
    assert (told.value.kind, told.value.exit_code) == ("not-up", 4)
    check(box, Expected(((DOWN, box.judge.now()),)))


def test_everything_at_once_ends_in_one_story(box: Crashbox) -> None:
    asked: list[tuple[str, dict[str, object]]] = [
        ("checkpoint", {}),
        ("rollback", {"rev": "first"}),
        ("status", {}),
        ("down", {}),
        ("up", {}),
        ("log", {}),
        ("rollback", {"rev": "base", "discard": True}),
        ("diff", {}),
    ]
    told: list[RemoteError] = []

    def ask(number: int) -> None:
        method, params = asked[number % len(asked)]
        try:
            box.ask(method, **params)
        except RemoteError as error:
            told.append(error)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(96)))
    assert {error.kind for error in told} <= {"not-up"}
    box.up()
    allowed = [*box.known.values(), box.judge.now()]
    check_tree(box, allowed)
    for row in reversed(box.log()):
        box.rollback(row["id"])
        check_tree(box, allowed)
        box.known[row["id"]] = box.shown()
    check(box, Expected(((UP, box.shown()),), born=box.judge.now()))


@pytest.mark.parametrize("method", ["checkpoint", "rollback"])
def test_a_purge_right_after_another_operation_leaves_nothing(box: Crashbox, method: str) -> None:
    base = box.known["base"]
    for _ in range(8):
        box.ask(method)
        box.down(purge=True)
        assert box.mounts() == []
        box.books.wait_until_in_order()
        box.up()
        check_tree(box, [base])
        apply(box.merged, *THIRD[:1])
    log = (box.home / "daemon.log").read_text()
    assert " ERROR " not in log, log
