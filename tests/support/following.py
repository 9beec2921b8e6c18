"""The state machine of `machine` with mirrors that follow it by the feed alone.

Whatever is done, at a barrier every mirror is the merged tree; so is one that stayed behind, and
one that begins again at any place that was seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.machine import Machine
from tests.support.mirror import Mirror

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis import settings

    from tests.support.feed import Source
    from tests.support.judge import Judge
    from tests.support.machine import Subject

_MOST_MIRRORS = 4


class Following(Machine):
    """`mirrors` are of `source`, the feed of `subject`; the first was there from the start."""

    def __init__(self, subject: Subject, judge: Judge, source: Source) -> None:
        super().__init__(subject, judge)
        self.mirrors: list[Mirror] = []
        self._every = 0
        self._steps = 0
        try:
            self.mirrors.append(Mirror(source))
        except BaseException:
            self.teardown()
            raise

    def teardown(self) -> None:
        for mirror in self.mirrors:
            mirror.close()
        super().teardown()

    @initialize(every=st.sampled_from([1, 2, 5, 1000]))
    def settle_how_often_it_is_compared(self, every: int) -> None:
        """Few barriers let changes pile up, many see each of them by itself."""
        self._every = every

    @invariant()
    def the_mirror_is_the_merged_tree(self) -> None:
        self._steps += 1
        if self._every and self._steps % self._every == 0:
            self.mirrors[0].check()

    @rule()
    def barrier(self) -> None:
        for mirror in self.mirrors:
            mirror.check()

    @rule(data=st.data())
    def read_what_has_come(self, data: st.DataObject) -> None:
        self._any_mirror(data).read()

    @precondition(lambda self: len(self.mirrors) < _MOST_MIRRORS)
    @rule(data=st.data())
    def another_begins_where_one_stands(self, data: st.DataObject) -> None:
        self.mirrors.append(self._any_mirror(data).fork())

    @rule(data=st.data())
    def a_connection_breaks(self, data: st.DataObject) -> None:
        self._any_mirror(data).close()

    @rule(data=st.data())
    def resume_at_a_place_that_was_seen(self, data: st.DataObject) -> None:
        mirror = self._any_mirror(data)
        mirror.check()
        # A part of all, for how many events the same steps are told in is not the same twice.
        part = data.draw(st.integers(0, 999), label="place, in thousandths")
        mirror.check_resumption(part * len(mirror.told) // 1000)

    def _any_mirror(self, data: st.DataObject) -> Mirror:
        return data.draw(st.sampled_from(self.mirrors), label="mirror")


def follow(begin: Callable[[], tuple[Subject, Judge, Source]], how: settings) -> None:
    """Run the machine many times, each on what `begin` has just made."""

    class Run(Following):
        def __init__(self) -> None:
            super().__init__(*begin())

    run_state_machine_as_test(Run, settings=how)
