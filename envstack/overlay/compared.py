"""A layer in the making filled with what two chains show differently, where no record tells.

It is to lie on the first chain and show with it what the second one shows. Slow, for it looks at
all that is not shared; exact, times alone aside, which are no difference. Where a file has several
names all of them are put, so that they are names of one file, or of several, as in the second one.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from envstack.linux.lease import is_open_for_writing
from envstack.model import FileKind
from envstack.overlay.descent import Descent
from envstack.overlay.diff import differences
from envstack.overlay.entry import open_to_read
from envstack.overlay.listed import facts_of, is_young
from envstack.overlay.making import Copied
from envstack.overlay.sameness import Sameness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from envstack.overlay.diff import Difference
    from envstack.overlay.making import Making
    from envstack.overlay.merged import Entry, LayerTree

_ROOT = b"."


class Census:
    """Takes what `delta.Delta` tells of an upper without copying anything.

    `paths` are those of which something was told since they were taken out.
    """

    def __init__(self, upper: bytes, grain: int) -> None:
        self._place = Descent([upper])
        self._grain = grain
        self.paths: list[bytes] = []

    def close(self) -> None:
        """Let the upper go."""
        self._place.__exit__(None, None, None)

    def copy(self, path: bytes) -> Copied | None:
        """Look at what is no directory; None where it is gone."""
        self.paths.append(path)
        name = self._place.go_to(path)
        try:
            status = os.stat(name, dir_fd=self._place.fd(0), follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                return None
            return self._file(name) if stat.S_ISREG(status.st_mode) else Copied(facts_of(status))
        except FileNotFoundError:
            return None

    def _file(self, name: bytes) -> Copied | None:
        try:
            file = open_to_read(name, self._place.fd(0))
        except OSError:
            return None
        try:
            is_written = is_open_for_writing(file)
            status = os.fstat(file)
        finally:
            os.close(file)
        young = is_young(status.st_ctime_ns, self._grain)
        return Copied(facts_of(status), doubtful=is_written or young)

    def directory(self, path: bytes, *, opaque: bool) -> bool:  # noqa: ARG002 (as `Target` has it)
        self.paths.append(path)
        return True

    def hide(self, path: bytes) -> None:
        self.paths.append(path)

    def clear(self, path: bytes) -> None:
        self.paths.append(path)


def lay(
    making: Making,
    before: Sequence[LayerTree],
    after: Sequence[LayerTree],
    paths: Iterable[bytes],
    tick: Callable[[], None],
) -> set[bytes]:
    """Fill a layer that lies on `before`; `making` has the trees of `after` as its sources.

    What differs at `paths` and below them is put. Returns the paths that changed while they were
    read. Raises as `differences` does.
    """
    laying = _Laying(making, after)
    for difference in differences(before, after, paths, tick, _ByLinks):
        laying.take(difference)
    return laying.unstable


class _ByLinks(Sameness):
    """Has a file with several names differ wherever it is not the very same file of a layer."""

    def same(self, name: bytes, old: Entry, new: Entry) -> bool:
        has_names = max(old.status.st_nlink, new.status.st_nlink) > 1
        if has_names and not new.is_dir and old.tree != new.tree:
            return False
        return super().same(name, old, new)


class _Laying:
    """Puts one difference after the other, which come by path."""

    def __init__(self, making: Making, after: Sequence[LayerTree]) -> None:
        self.unstable: set[bytes] = set()
        self._making = making
        self._number = {tree: number for number, tree in enumerate(after)}
        self._covered: set[bytes] = set()

    def take(self, difference: Difference) -> None:
        change = difference.change
        path = change.path
        if path == _ROOT:
            return
        if difference.new is None:
            self._hide(path)
        elif change.kind is FileKind.DIR:
            self._making.directory(path, opaque=False)
        else:
            self._covered.add(path)
            copied = self._making.copy(path, self._number[difference.new])
            if copied is None:
                self._hide(path)
            elif not copied.whole:
                self.unstable.add(path)

    def _hide(self, path: bytes) -> None:
        """Put a whiteout, unless a directory above is gone itself."""
        self._covered.add(path)
        if not any(above in self._covered for above in _all_above(path)):
            self._making.hide(path)


def _all_above(path: bytes) -> Iterator[bytes]:
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path
