"""When things may be done again."""

from __future__ import annotations

import time
from math import inf

import pytest

from envstack.feed.pacing import Patrols, Pauses, Share


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is, in its only element."""
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_what_took_a_second_and_has_a_tenth_of_the_time_waits_for_nine(clock: list[float]) -> None:
    share = Share(0.1)
    assert share.due < clock[0]
    with share.spend():
        clock[0] += 1
    assert share.due == pytest.approx(clock[0] + 9)


def test_what_fails_has_spent_its_time_too(clock: list[float]) -> None:
    share = Share(0.5, least=0.1)
    with pytest.raises(OSError, match="full"), share.spend():
        raise OSError("full")
    assert share.due == pytest.approx(clock[0] + 0.1)


def test_pauses_double_up_to_the_longest_and_begin_again(clock: list[float]) -> None:
    pauses = Pauses(1, 3)
    assert pauses.due < clock[0]
    lengths = []
    for _ in range(4):
        pauses.grow()
        lengths.append(pauses.due - clock[0])
    assert lengths == [1, 2, 3, 3]
    pauses.reset()
    assert pauses.due < clock[0]
    pauses.grow()
    assert pauses.due == clock[0] + 1


def test_the_first_patrol_is_at_once_and_the_next_after_the_pause(clock: list[float]) -> None:
    patrols = Patrols(5, 40)
    assert patrols.due == inf
    patrols.heard()
    assert patrols.due <= clock[0]
    patrols.done(has_more=False)
    assert patrols.due == inf
    clock[0] += 1
    patrols.heard()
    assert patrols.due == clock[0] + 4


def test_a_patrol_with_more_to_do_is_followed_by_another(clock: list[float]) -> None:
    patrols = Patrols(5, 40)
    patrols.done(has_more=True)
    assert patrols.due == clock[0] + 5


def test_patrols_that_hear_but_themselves_grow_rare(clock: list[float]) -> None:
    patrols = Patrols(5, 40)
    pauses = []
    for _ in range(5):
        patrols.done(has_more=False)
        patrols.heard_ourselves()
        pauses.append(patrols.due - clock[0])
        clock[0] = patrols.due
    assert pauses == [10, 20, 40, 40, 40]
    patrols.done(has_more=False)
    patrols.heard()
    assert patrols.due == clock[0] + 5


def test_patrols_that_take_several_goes_grow_rare_too(clock: list[float]) -> None:
    patrols = Patrols(5, 40)
    pauses = []
    for _ in range(4):
        patrols.done(has_more=True)
        patrols.heard_ourselves()
        clock[0] = patrols.due
        patrols.done(has_more=False)
        patrols.heard_ourselves()
        pauses.append(patrols.due - clock[0])
        clock[0] = patrols.due
    assert pauses == [10, 20, 40, 40]


def test_an_echo_does_not_put_off_a_patrol(clock: list[float]) -> None:
    patrols = Patrols(5, 40)
    patrols.done(has_more=False)
    patrols.heard()
    patrols.heard_ourselves()
    assert patrols.due == clock[0] + 5
