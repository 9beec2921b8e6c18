"""A rollback in place that is killed halfway: it is finished, or it is said that it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from envstack.environment.steps import Step
from tests.crash.daemon import KILL, Order
from tests.crash.operations import BY_NAME
from tests.support import trees
from tests.support.feed import Subscription, whole

if TYPE_CHECKING:
    from tests.crash.crashbox import Crashbox

pytestmark = pytest.mark.kernel

Json = dict[str, Any]

HALFWAY = Order(KILL, Step.APPLY, 5)


def _sync(box: Crashbox) -> Json:
    answer: Json = box.call("feed.sync", stack=str(box.stack))
    return answer


def _told(box: Crashbox, since: str, last: int) -> list[Json]:
    params = {"stack": str(box.stack), "since": since}
    with Subscription(box.places().socket, "feed.subscribe", params) as feed:
        return list(whole(feed, last))


@pytest.mark.parametrize("is_power_off", [False, True])
def test_the_feed_brackets_it_whoever_finishes_it(crashbox: Crashbox, is_power_off: bool) -> None:
    operation = BY_NAME["rollback-in-place"]
    operation.prepare(crashbox)
    cursor = _sync(crashbox)["cursor"]
    crashbox.kill_at(HALFWAY, lambda: operation.act(crashbox))
    if is_power_off:
        crashbox.power_off()
    told = _told(crashbox, cursor, _sync(crashbox)["seq"])
    kinds = [event["event"] for event in told if event["event"] not in {"ready", "sync", "mount"}]
    assert kinds[:2] == ["checkpoint", "rollback-begin"]
    assert kinds[-1] == "rollback-end"
    assert set(kinds[2:-1]) == {"changes"}
    log = (crashbox.home / "daemon.log").read_text()
    assert "was cut short, and is finished" in log


def test_one_whose_target_is_lost_is_left_as_it_is_and_all_goes_on(crashbox: Crashbox) -> None:
    operation = BY_NAME["rollback-in-place"]
    operation.prepare(crashbox)
    before = crashbox.judge.now()
    target = next(row for row in crashbox.log() if row["tag"] == "first")
    crashbox.kill_at(HALFWAY, lambda: operation.act(crashbox))
    crashbox.power_off()
    layer = crashbox.books.chain_of(target["id"])[0]
    place = crashbox.home / "layers" / layer / "fs"
    place.rename(place.with_name("gone"))
    saved = crashbox.log()[0]["id"]
    log = (crashbox.home / "daemon.log").read_text()
    assert "was cut short and cannot be finished" in log
    assert crashbox.status()["head"]["id"] == saved
    place.with_name("gone").rename(place)
    if crashbox.state() != "up":
        crashbox.up()
    assert crashbox.diff() != []
    crashbox.rollback(saved, discard=True)
    assert not trees.differences(crashbox.shown(), before)
    crashbox.rollback("first", mode="in-place")
    assert crashbox.diff() == []
