"""What must be true of an environment whatever became of its daemon, and of its machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tests.crash.crashbox import ABSENT, DOWN, UP, WRITTEN_AFTER_CRASH
from tests.support import trees
from tests.support.edits import apply, write

if TYPE_CHECKING:
    from tests.crash.crashbox import Crashbox
    from tests.support.trees import Tree

Outcome = tuple[str, "Tree"]
"""A state and the merged tree; for a state that has none, the one that `up` brings."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a crash may leave: an outcome of these, the last being that of the operation done.

    `born` is the tree of the checkpoint that may have been made.
    """

    outcomes: tuple[Outcome, ...]
    born: Tree | None = None

    @property
    def trees(self) -> list[Tree]:
        """The trees that may be seen."""
        return [tree for _state, tree in self.outcomes]

    def kept(self, written: Tree | None) -> Expected:
        """What may be where what was begun is finished, and what the user wrote meanwhile stays.

        `written` is the merged tree as the user left it.
        """
        if written is None:
            return self
        mine = {path: written[path] for path in WRITTEN_AFTER_CRASH}
        kept = tuple((state, {**tree, **mine}) for state, tree in self.outcomes)
        return replace(self, outcomes=kept)

    @property
    def done(self) -> Expected:
        """What alone may be once the operation was answered."""
        return replace(self, outcomes=self.outcomes[-1:])


class Between(StrEnum):
    """What happens between the death of a daemon and the next one."""

    RESTART = "restart"
    WORK = "work on, restart"
    POWER_OFF = "power off"
    WORK_AND_POWER_OFF = "work on, power off"

    def pass_by(self, box: Crashbox) -> Tree | None:
        """Let it happen; return the merged tree as the user left it, if he could write."""
        written = None
        if self in {Between.WORK, Between.WORK_AND_POWER_OFF}:
            written = box.work_on()
        if self in {Between.POWER_OFF, Between.WORK_AND_POWER_OFF}:
            box.power_off()
        return written


def check_tree(box: Crashbox, allowed: list[Tree]) -> None:
    """Fail, with every difference named, unless the merged tree is the same as one of `allowed`."""
    shown = box.shown()
    found = [trees.differences(shown, tree) for tree in allowed]
    if all(found):
        lines = "\nor (right): ".join("\n".join(rows) for rows in found)
        raise AssertionError(f"the merged tree (left) is not as it should be:\n{lines}")


def check(box: Crashbox, expected: Expected, written: Tree | None = None) -> None:
    """Check every promise after a crash, that life goes on, and that no daemon saw a fault."""
    check_promises(box, expected, written)
    log = (box.home / "daemon.log").read_text()
    assert " ERROR " not in log, log


def check_promises(box: Crashbox, expected: Expected, written: Tree | None = None) -> None:
    """Check every promise after a crash, and that life goes on.

    `written` is the merged tree as the user left it, if he went on working meanwhile.
    """
    for row in _check_outcome(box, expected, written):
        if row["id"] not in box.known:
            assert expected.born is not None, f"a checkpoint that nobody asked for: {row}"
            box.known[row["id"]] = expected.born
    _check_log(box)
    _check_going_on(box)
    _check_history(box)


def _check_outcome(box: Crashbox, expected: Expected, written: Tree | None) -> list[Any]:
    """Check what is mounted and shown, bring it up, and return the log as it was found."""
    state = box.state()
    allowed = [tree for found, tree in expected.outcomes if found == state]
    assert allowed, f"{state} is none of {[found for found, _tree in expected.outcomes]}"
    assert box.mounts() == ([str(box.merged)] if state == UP else [])
    if state == DOWN:
        box.check_unmounted()
    if state == ABSENT:
        box.books.wait_until_in_order()
        box.known = {"base": box.known["base"]}
    if state != UP:
        box.up()
    check_tree(box, [written] if written else allowed)
    return box.log()


def _check_going_on(box: Crashbox) -> None:
    """Write, checkpoint, and see the store in order."""
    apply(box.merged, write("after the crash", "and on\n"))
    tree = box.shown()
    box.known[box.checkpoint("going on")["id"]] = tree
    check_tree(box, [tree])
    assert box.mounts() == [str(box.merged)]
    box.books.wait_until_in_order()


def _check_history(box: Crashbox) -> None:
    """Roll back to everything that was ever sealed."""
    for rev, tree in reversed(box.known.items()):
        box.rollback(rev)
        check_tree(box, [tree])
    _check_log(box)
    box.books.wait_until_in_order()


def _check_log(box: Crashbox) -> None:
    assert {row["id"] for row in box.log()} == box.known.keys() - {"base"}
