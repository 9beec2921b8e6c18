"""Nobody waits for the answer any more: what was asked for either happened, or did not."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Any

import pytest

from envstack.environment.steps import Step
from envstack.rpc.places import places
from tests.crash.crashbox import ABSENT, FIRST, SECOND, UP
from tests.crash.daemon import PAUSE, Order
from tests.crash.pauses import SWAP
from tests.crash.promises import Expected, check
from tests.daemon.harness import Raw
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.crash.crashbox import Crashbox

pytestmark = pytest.mark.kernel

Json = dict[str, Any]

_ID = 7
_CANCELLED = "cancelled"
PARAMS: dict[str, dict[str, object]] = {"checkpoint": {}, "rollback": {"rev": "first"}}
each_step = pytest.mark.parametrize("step", SWAP)
each_method = pytest.mark.parametrize("method", PARAMS)


@contextmanager
def asking(box: Crashbox, method: str, **params: object) -> Iterator[Raw]:
    """Ask for something over a connection of its own, and read no answer."""
    box.environments()
    with Raw(places({"ENVSTACK_HOME": str(box.home)}, 0).socket) as raw:
        raw.greet()
        raw.ask(_ID, f"env.{method}", stack=str(box.stack), **params)
        yield raw


def answer(raw: Raw, said: Iterable[Json] = ()) -> Json:
    """Return the answer to what was asked, which may be among what was `said` already."""
    return next(heard for heard in chain(said, iter(raw.hear, None)) if heard.get("id") == _ID)


def cancel(raw: Raw) -> list[Json]:
    """Cancel what was asked for, and return, with what was said, when the daemon has read that."""
    raw.say(method="$/cancel", params={"id": _ID})
    raw.ask("after", "daemon.status")
    return list(takewhile(lambda heard: heard.get("id") != "after", iter(raw.hear, None)))


@pytest.fixture
def box(crashbox: Crashbox) -> Crashbox:
    """An environment with one checkpoint, and changes after it."""
    crashbox.up()
    crashbox.edit(*FIRST)
    crashbox.remember(crashbox.checkpoint("first", tag="first")["id"])
    crashbox.edit(*SECOND)
    crashbox.books.wait_until_in_order()
    return crashbox


def expected(box: Crashbox, method: str) -> Expected:
    """Return what may be: it did not happen, or it did."""
    now = box.judge.now()
    after = now if method == "checkpoint" else list(box.known.values())[1]
    return Expected(((UP, now), (UP, after)), born=now)


@each_method
@each_step
def test_what_is_cancelled_in_a_step_is_answered_as_it_went(
    box: Crashbox, method: str, step: Step
) -> None:
    promised = expected(box, method)
    box.orders.give(Order(PAUSE, step))
    with asking(box, method, **PARAMS[method]) as raw:
        waiting.until(lambda: step in box.orders.seen(), f"a pause before {step}")
        said = cancel(raw)
        box.orders.withdraw()
        told = answer(raw, said)
    if "result" in told:
        promised = promised.done
        assert len(box.log()) == 2
    else:
        assert told["error"]["data"]["kind"] == _CANCELLED
        assert len(box.log()) == 1
    check(box, promised)


@pytest.mark.parametrize("step", [Step.COPY_CHANGES, Step.CATCH_UP, Step.COMMIT])
def test_a_live_checkpoint_that_is_cancelled_leaves_all_of_it_or_nothing(
    box: Crashbox, step: Step
) -> None:
    promised = expected(box, "checkpoint")
    box.orders.give(Order(PAUSE, step))
    with asking(box, "checkpoint", mode="live") as raw:
        waiting.until(lambda: step in box.orders.seen(), f"a pause before {step}")
        said = cancel(raw)
        box.orders.withdraw()
        told = answer(raw, said)
    if step is Step.COMMIT:
        assert "result" in told, "there is nothing left that could be given up"
    else:
        assert told["error"]["data"]["kind"] == _CANCELLED
        assert len(box.log()) == 1
    box.books.wait_until_in_order()
    check(box, promised)


@each_method
@each_step
def test_a_client_that_dies_in_a_step_leaves_all_of_it_or_nothing(
    box: Crashbox, method: str, step: Step
) -> None:
    promised = expected(box, method)
    box.orders.give(Order(PAUSE, step))
    with asking(box, method, **PARAMS[method]):
        waiting.until(lambda: step in box.orders.seen(), f"a pause before {step}")
    box.orders.withdraw()
    box.books.wait_until_in_order()
    check(box, promised)


def test_what_is_cancelled_while_it_waits_for_its_turn_does_not_happen(box: Crashbox) -> None:
    now = box.judge.now()
    box.orders.give(Order(PAUSE, Step.LOCK))
    with asking(box, "checkpoint") as first:
        waiting.until(lambda: Step.LOCK in box.orders.seen(), "a pause")
        with asking(box, "rollback", rev="base") as second:
            said = cancel(second)
            assert answer(second, said)["error"]["data"]["kind"] == _CANCELLED
        box.orders.withdraw()
        box.known[answer(first)["result"]["id"]] = now
    check(box, Expected(((UP, now),)))


def test_an_up_that_is_cancelled_while_it_copies_leaves_nothing(crashbox: Crashbox) -> None:
    crashbox.declare({"layers": [{"name": "top", "dir": "top", "copy": True}]})
    crashbox.orders.give(Order(PAUSE, Step.COPY))
    with asking(crashbox, "up") as raw:
        waiting.until(lambda: Step.COPY in crashbox.orders.seen(), "a pause")
        said = cancel(raw)
        crashbox.orders.withdraw()
        assert answer(raw, said)["error"]["data"]["kind"] == _CANCELLED
    assert crashbox.state() == ABSENT
    assert crashbox.mounts() == []
    crashbox.books.wait_until_in_order()
