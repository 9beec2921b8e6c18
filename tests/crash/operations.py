"""The operations that a daemon is killed in, and what each of them announces."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.environment.steps import Step
from tests.crash.crashbox import ABSENT, BELOW, DOWN, FIRST, SECOND, THIRD, UP, Crashbox
from tests.crash.promises import Expected
from tests.support import trees
from tests.support.edits import apply
from tests.support.ways import NEWER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.trees import Tree


@dataclass(frozen=True, slots=True)
class Operation:
    """`prepare` makes the world before it, and says what may be after a crash in `act`.

    `steps` is the recording of what it announces, its work in the background included; a test
    holds it against a new recording.
    """

    name: str
    prepare: Callable[[Crashbox], Expected]
    act: Callable[[Crashbox], object]
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return self.name

    @property
    def is_swap(self) -> bool:
        """Whether it exchanges the mount."""
        return Step.DETACH in self.steps

    @property
    def is_gradual(self) -> bool:
        """Whether what it changes is seen while it is done; what is left to do is done later."""
        return Step.APPLY in self.steps

    def is_under_way(self, step: Step | str, nth: int) -> bool:
        """Whether it is gradual, and has begun at that announcement, and is not over."""
        is_last = step == Step.COMMIT and nth == self.steps.count(Step.COMMIT)
        return self.is_gradual and (step == Step.APPLY or is_last)

    @property
    def is_told(self) -> bool:
        """Whether the feed leads over it: what is changed below, or deleted, is not told."""
        return Step.FORGET not in self.steps and not self.name.startswith("relay")

    def steps_in(self, way: str) -> tuple[Step, ...]:
        """Return what it announces where mounts are exchanged in this way."""
        if way == NEWER:
            return self.steps
        other = {Step.BENEATH: Step.DETACH, Step.DETACH: Step.ATTACH}
        return tuple(other.get(step, step) for step in self.steps)

    def points(self, way: str) -> Iterator[tuple[Step, int]]:
        """Yield each announcement: a step, and which one of that step it is."""
        for step, count in Counter(self.steps_in(way)).items():
            for nth in range(1, count + 1):
                yield step, nth


def _nothing(box: Crashbox) -> Expected:
    box.environments()
    base = box.known["base"]
    return Expected(((ABSENT, base), (DOWN, base), (UP, base)))


def _nothing_to_copy(box: Crashbox) -> Expected:
    top = {"name": "top", "dir": "top", "copy": True}
    box.declare({"layers": [{"name": "bottom", "dir": "bottom"}, top]})
    return _nothing(box)


def _nothing_to_run(box: Crashbox) -> Expected:
    """What the command makes is what the upper layer of the others holds."""
    elsewhere = box.place / "top"  # the project may be mounted over
    trees.duplicate(box.project / "top", elsewhere)
    top = {"name": "top", "run": f"cp -a {elsewhere}/. ."}
    box.declare({"layers": [{"name": "bottom", "dir": "bottom"}, top]})
    return _nothing(box)


def _history(box: Crashbox) -> tuple[Tree, Tree]:
    """Bring it up with two checkpoints and nothing after them; return their trees."""
    box.up()
    box.edit(*FIRST)
    first = box.remember(box.checkpoint("first", tag="first")["id"])
    box.edit(*SECOND)
    second = box.remember(box.checkpoint("second", tag="second")["id"])
    box.books.wait_until_in_order()
    return first, second


def _checkpoint_of_nothing(box: Crashbox) -> Expected:
    _first, second = _history(box)
    return Expected(((UP, second),), born=second)


def _rollback_of_nothing(box: Crashbox) -> Expected:
    _first, second = _history(box)
    return Expected(((UP, second),))


def _clean(box: Crashbox) -> Expected:
    first, second = _history(box)
    return Expected(((UP, second), (UP, first)))


def _changes(box: Crashbox) -> tuple[Tree, Tree, Tree]:
    """Bring it up with two checkpoints and changes after them; return the three trees."""
    first, second = _history(box)
    box.edit(*THIRD)
    return first, second, box.judge.now()


def _dirty(box: Crashbox) -> Expected:
    *_sealed, third = _changes(box)
    return Expected(((UP, third),), born=third)


def _live(box: Crashbox) -> tuple[Tree, Tree]:
    """Bring it up with a checkpoint, and a live one after it; return their trees."""
    box.up()
    box.edit(*FIRST)
    first = box.remember(box.checkpoint("first", tag="first")["id"])
    box.edit(*SECOND)
    second = box.remember(box.checkpoint("second", tag="second", mode="live")["id"])
    box.books.wait_until_in_order()
    return first, second


def _live_and_clean(box: Crashbox) -> Expected:
    _first, second = _live(box)
    return Expected(((UP, second),), born=second)


def _live_and_dirty(box: Crashbox) -> Expected:
    _live(box)
    box.edit(*THIRD)
    third = box.judge.now()
    return Expected(((UP, third),), born=third)


def _dirty_to_save(box: Crashbox) -> Expected:
    first, _second, third = _changes(box)
    return Expected(((UP, third), (UP, first)), born=third)


def _dirty_to_discard(box: Crashbox) -> Expected:
    _first, second, third = _changes(box)
    return Expected(((UP, third), (UP, second)))


def _dirty_to_unmount(box: Crashbox) -> Expected:
    *_sealed, third = _changes(box)
    return Expected(((UP, third), (DOWN, third)))


def _down(box: Crashbox) -> Expected:
    *_sealed, third = _changes(box)
    box.down()
    return Expected(((DOWN, third), (UP, third)))


def _dirty_to_rebuild(box: Crashbox) -> Expected:
    _add_command(box)
    *_sealed, third = _changes(box)
    return Expected(((UP, third), (UP, box.known["base"])), born=third)


def _down_to_rebuild(box: Crashbox) -> Expected:
    _add_command(box)
    *_sealed, third = _changes(box)
    box.down()
    return Expected(((DOWN, third), (UP, box.known["base"])), born=third)


def _add_command(box: Crashbox) -> None:
    names = [{"name": name, "dir": name} for name in ("bottom", "top")]
    box.declare({"layers": [*names, {"name": "run", "run": "true"}]})


def _dirty_to_delete(box: Crashbox) -> Expected:
    *_sealed, third = _changes(box)
    return Expected(((UP, third), (DOWN, third), (ABSENT, box.known["base"])))


def _changed_below(box: Crashbox) -> Expected:
    """A file that is new below the mount, under a name that nobody has looked for."""
    *_sealed, third = _changes(box)
    apply(box.project / "bottom", BELOW)
    apply(box.judge.plain, BELOW)
    name = b"below"
    new = {name: box.judge.now()[name]}
    box.known = {rev: {**tree, **new} for rev, tree in box.known.items()}
    return Expected(((UP, {**third, **new}),))


def _replaced_below(box: Crashbox) -> Expected:
    _first, second = _history(box)
    _replace_bottom(box)
    return Expected(((UP, second),))


def _replaced_below_changes(box: Crashbox) -> Expected:
    *_sealed, third = _changes(box)
    _replace_bottom(box)
    return Expected(((UP, third),), born=third)


def _replace_bottom(box: Crashbox) -> None:
    """Put a copy of a layer's directory in its place; what it shows is the same."""
    bottom, old = box.project / "bottom", box.project / "old"
    bottom.rename(old)
    trees.duplicate(old, bottom)


_BEGIN_IN_PLACE = (Step.COMPARE, Step.REGISTER)
_LIVE = (
    *(Step.STAGE, Step.COPY_CHANGES, Step.FREEZE, Step.CATCH_UP, Step.PUBLISH),
    *(Step.COMMIT, Step.REMEMBER, Step.RECORD, Step.SUM, Step.SYNC),
)
_UP = (
    *(Step.REGISTER, Step.PREPARE, Step.BUILD, Step.ATTACH, Step.COMMIT),
    Step.FINGERPRINT,
)
_SWAP = (
    *(Step.REGISTER, Step.PREPARE, Step.BUILD, Step.LOCK, Step.BENEATH, Step.DETACH, Step.COMMIT),
    *(Step.SEAL, Step.RECORD, Step.SPARE),
)
_SEALED = (Step.SUM, Step.SYNC, Step.COUNT)
_COPIED = (Step.STAGE, Step.COPY_CHANGES, Step.FREEZE, Step.CATCH_UP)
_DOWN = (Step.REGISTER, Step.UNMOUNT, Step.COMMIT)

OPERATIONS = (
    Operation("up", _nothing, Crashbox.up, (Step.STAGE, *_UP, Step.SPARE)),
    Operation(
        "up-with-a-copy",
        _nothing_to_copy,
        Crashbox.up,
        (Step.STAGE, Step.COPY, Step.PUBLISH, *_UP, Step.SPARE),
    ),
    Operation(
        "up-with-a-command",
        _nothing_to_run,
        Crashbox.up,
        (Step.STAGE, Step.RUN, Step.PUBLISH, *_UP, Step.SPARE),
    ),
    Operation(
        "rebuild",
        _dirty_to_rebuild,
        lambda box: box.up(rebuild=""),
        (Step.STAGE, Step.RUN, Step.PUBLISH, *_SWAP, *_SEALED, Step.FINGERPRINT),
    ),
    Operation(
        "rebuild-while-down",
        _down_to_rebuild,
        lambda box: box.up(rebuild=""),
        (Step.STAGE, Step.RUN, Step.PUBLISH, *_UP, Step.RECORD, Step.SPARE, *_SEALED),
    ),
    Operation("up-again", _down, Crashbox.up, (*_UP, Step.SPARE)),
    Operation(
        "relay",
        _changed_below,
        lambda box: box.up(relay=True),
        (Step.REFRESH, Step.FINGERPRINT),
    ),
    Operation(
        "relay-of-another-directory",
        _replaced_below,
        lambda box: box.up(relay=True),
        (*_SWAP, Step.DELETE, Step.FINGERPRINT),
    ),
    Operation(
        "relay-of-another-directory-with-changes",
        _replaced_below_changes,
        lambda box: box.up(relay=True),
        (*_SWAP, *_SEALED, Step.FINGERPRINT),
    ),
    Operation("checkpoint", _dirty, Crashbox.checkpoint, (*_SWAP, *_SEALED)),
    Operation(
        "checkpoint-with-sync",
        _dirty,
        lambda box: box.checkpoint(sync=True),
        (*_SWAP, *_SEALED),
    ),
    Operation("checkpoint-of-nothing", _checkpoint_of_nothing, Crashbox.checkpoint, (Step.COMMIT,)),
    Operation(
        "live-checkpoint",
        _live_and_dirty,
        lambda box: box.checkpoint(mode="live"),
        (*_COPIED, Step.PUBLISH, Step.COMMIT, Step.REMEMBER, Step.RECORD, Step.SUM, Step.SYNC),
    ),
    Operation(
        "live-checkpoint-of-nothing",
        _live_and_clean,
        lambda box: box.checkpoint(mode="live"),
        (*_COPIED, Step.COMMIT, Step.DELETE, Step.REMEMBER),
    ),
    Operation(
        "rollback-with-saved",
        _dirty_to_save,
        lambda box: box.rollback("first"),
        (*_SWAP, *_SEALED),
    ),
    Operation(
        "rollback-without-changes",
        _clean,
        lambda box: box.rollback("first"),
        (*_SWAP, Step.DELETE),
    ),
    Operation(
        "rollback-with-discard",
        _dirty_to_discard,
        lambda box: box.rollback(discard=True),
        (*_SWAP, Step.DELETE),
    ),
    Operation(
        "rollback-in-place",
        _dirty_to_save,
        lambda box: box.rollback("first", mode="in-place"),
        (*_LIVE, *_BEGIN_IN_PLACE, *[Step.APPLY] * 10, Step.COMMIT),
    ),
    Operation(
        "rollback-in-place-with-discard",
        _dirty_to_discard,
        lambda box: box.rollback(mode="in-place", discard=True),
        (*_BEGIN_IN_PLACE, *[Step.APPLY] * 8, Step.COMMIT),
    ),
    Operation("rollback-of-nothing", _rollback_of_nothing, Crashbox.rollback, (Step.COMMIT,)),
    Operation("down", _dirty_to_unmount, Crashbox.down, _DOWN),
    Operation(
        "purge",
        _dirty_to_delete,
        lambda box: box.down(purge=True),
        (*_DOWN, Step.FORGET, *[Step.DELETE] * 6),
    ),
)

BY_NAME = {operation.name: operation for operation in OPERATIONS}
