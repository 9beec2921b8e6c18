"""The exact difference between what two chains of layers show.

Its cost follows the changes: two merged directories made of the same layers are the same and are
not entered, and of others only those layers are listed that contribute to one of them alone. A
live upper may change while it is read: what vanished by the time it is looked at is not there.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from envstack.errors import Damaged
from envstack.model import Change, ChangeType
from envstack.overlay import alone
from envstack.overlay.descent import Descent
from envstack.overlay.merged import LayerTree, Name, Shown, contributes, listing
from envstack.overlay.sameness import Sameness, go_on, kind_of
from envstack.overlay.wanted import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    Judge = Callable[[Descent, tuple[LayerTree, ...], Callable[[], None]], Sameness]

__all__ = ["Difference", "LayerTree", "diff", "differences", "differs", "require"]

_ROOT = b"."
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """A change, and the layers that show the path before and after; None where it is not there."""

    change: Change
    old: LayerTree | None
    new: LayerTree | None


def diff(
    a: Sequence[LayerTree], b: Sequence[LayerTree], tick: Callable[[], None] = go_on
) -> Generator[Change, None, None]:
    """Yield what a user sees changed from chain `a` to chain `b`, as `differences` finds it."""
    with closing(differences(a, b, tick=tick)) as found:
        for difference in found:
            yield difference.change


def differences(
    a: Sequence[LayerTree],
    b: Sequence[LayerTree],
    paths: Iterable[bytes] = (_ROOT,),
    tick: Callable[[], None] = go_on,
    judge: Judge = Sameness,
) -> Generator[Difference, None, None]:
    """Yield what a user sees changed from chain `a` to chain `b`, both topmost first, by path.

    Only at `paths`, relative to the root, and below them; nothing else is looked at but the way
    there. `tick` is called for every entry and every MiB compared, and may raise to end it.

    The upper of a mounted environment is the first element of its chain. Times alone are no
    change, unless `judge` has it so, which says of two entries whether they are the same. The order
    is that of the paths' bytes. A quarter of the soft RLIMIT_NOFILE, and if that is less, one
    directory a layer, may be held open until the iterator is exhausted or closed.

    Raises errors.Damaged if a layer is not there, errors.Unsupported for an entry that needs
    layers it came from, and OSError.
    """
    trees = tuple(dict.fromkeys([*a, *b]))
    number = {tree: index for index, tree in enumerate(trees)}
    with Descent([tree.path for tree in trees]) as place:
        require(place, trees)
        comparison = _Comparison(place, trees, tick, judge(place, trees, tick))
        yield from comparison.run(
            tuple(number[tree] for tree in a), tuple(number[tree] for tree in b), Wanted(paths)
        )


def differs(a: Sequence[LayerTree], b: Sequence[LayerTree]) -> bool:
    """Whether there is any change from `a` to `b`; stops at the first. Raises as `diff` does."""
    with closing(diff(a, b)) as changes:
        return next(changes, None) is not None


def require(place: Descent, trees: tuple[LayerTree, ...]) -> None:
    """Raise errors.Damaged for a layer that is not there: it is no empty one."""
    for index, tree in enumerate(trees):
        try:
            place.fd(index)
        except (FileNotFoundError, NotADirectoryError) as fault:
            raise Damaged(
                f"the layer {tree.path.decode(errors='replace')} is not there",
                "put the directory back",
            ) from fault


@dataclass(slots=True)
class _Frame:
    """A directory being compared: what is still to be looked at, as a heap of keys.

    A key is a name, or a name and a slash for the directory below it: in this order the paths come
    out sorted, for `a-b` stands between `a` and `a/b`.
    """

    old: tuple[int, ...]
    new: tuple[int, ...]
    keys: list[bytes]
    wanted: Wanted
    below: dict[bytes, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)


class _Comparison:
    """The walk. It keeps a stack of its own: trees are deeper than Python's recursion goes."""

    def __init__(
        self,
        place: Descent,
        trees: tuple[LayerTree, ...],
        tick: Callable[[], None],
        sameness: Sameness,
    ) -> None:
        self._place = place
        self._trees = trees
        self._tick = tick
        self._sameness = sameness

    def run(
        self, old: tuple[int, ...], new: tuple[int, ...], wanted: Wanted
    ) -> Iterator[Difference]:
        if old == new:
            return
        frames = [self._frame(old, new, wanted)]
        if not wanted:
            heappush(frames[0].keys, _ROOT)
        while True:
            self._tick()
            frame = frames[-1]
            if not frame.keys:
                frames.pop()
                if not frames:
                    return
                self._place.leave()
                continue
            key = heappop(frame.keys)
            if key.endswith(b"/"):
                self._place.enter(key[:-1])
                below = frame.wanted.below(key[:-1])
                sides = frame.below.pop(key)
                if self._is_listed(sides, below):
                    yield from self._listed(*sides)
                    self._place.leave()
                else:
                    frames.append(self._frame(*sides, below))
            else:
                yield from self._entry(frame, key)

    def _frame(self, old: tuple[int, ...], new: tuple[int, ...], wanted: Wanted) -> _Frame:
        there = {tree for tree in {*old, *new} if contributes(self._place, tree)}
        old = tuple(tree for tree in old if tree in there)
        new = tuple(tree for tree in new if tree in there)
        common = set(old) & set(new)
        if [tree for tree in old if tree in common] == [tree for tree in new if tree in common]:
            # A name that only common layers have is looked up alike on both sides.
            there -= common
        keys = list(wanted or {name for tree in there for name in listing(self._place, tree)})
        heapify(keys)
        return _Frame(old, new, keys, wanted)

    def _is_listed(self, sides: tuple[tuple[int, ...], tuple[int, ...]], wanted: Wanted) -> bool:
        """Whether a listing tells all: one side is shown, and by one layer marked by types."""
        layers = sides[0] + sides[1]
        return len(layers) == 1 and self._trees[layers[0]].marked_by_type and not wanted

    def _listed(self, old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[Difference]:
        """Yield all below this place as added or deleted."""
        (number,) = old + new
        tree = self._trees[number]
        change = ChangeType.ADDED if new else ChangeType.DELETED
        before, after = (None, tree) if new else (tree, None)
        for path, kind in alone.below(self._place, number, self._tick):
            yield Difference(Change(path, change, kind), before, after)

    def _entry(self, frame: _Frame, name: bytes) -> Iterator[Difference]:
        if frame.wanted.below(name):  # on the way to what is wanted
            names = Name(self._place, self._trees, name)
            old, new = names.shown(frame.old), names.shown(frame.new)
        else:
            old, new, change = self._settled(frame, name)
            if change is not None:
                yield self._difference(name, old, new, change)
        above = old.layers if old else ()
        below = new.layers if new else ()
        if above != below and name != _ROOT:
            key = name + b"/"
            frame.below[key] = above, below
            heappush(frame.keys, key)

    def _difference(
        self, name: bytes, old: Shown | None, new: Shown | None, change: ChangeType
    ) -> Difference:
        shown = new or old
        assert shown is not None
        return Difference(
            Change(self._place.path(name), change, kind_of(shown.entry.status.st_mode)),
            self._trees[old.entry.tree] if old else None,
            self._trees[new.entry.tree] if new else None,
        )

    def _settled(
        self, frame: _Frame, name: bytes
    ) -> tuple[Shown | None, Shown | None, ChangeType | None]:
        """Look a name up on both sides; anew if it vanished while its content was compared."""
        for _ in range(_ATTEMPTS):
            names = Name(self._place, self._trees, name)
            old, new = names.shown(frame.old), names.shown(frame.new)
            if new is None:
                return old, new, ChangeType.DELETED if old else None
            if old is None:
                return old, new, ChangeType.ADDED
            try:
                same = self._sameness.same(name, old.entry, new.entry)
            except FileNotFoundError:
                continue
            return old, new, None if same else ChangeType.MODIFIED
        return old, new, ChangeType.MODIFIED
