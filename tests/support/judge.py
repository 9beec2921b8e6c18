"""A plain directory that is edited like the merged tree, and copies of it: what must be true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import trees
from tests.support.edits import apply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.edits import Edit
    from tests.support.trees import Tree


class Judge:
    """`plain` is the tree as it should look now; `place` holds it and the copies of other times."""

    def __init__(self, place: Path, *layers: list[Edit]) -> None:
        """Lay the edits that make the stack's layers on each other, bottom first."""
        self.place = place
        self.plain = place / "plain"
        place.mkdir()
        self.plain.mkdir()
        self.plain.chmod(0o755)
        self._times: dict[str, Tree] = {}
        for edits in layers:
            apply(self.plain, *edits)
        self.remember("base")

    def remember(self, rev: str) -> None:
        """Keep a copy of what is now under the name `rev`."""
        trees.duplicate(self.plain, self.place / rev)
        self._times[rev] = trees.snapshot(self.plain)

    def restore(self, rev: str) -> None:
        """Make what is now the same as it was at `rev`."""
        trees.remove(self.plain)
        trees.duplicate(self.place / rev, self.plain)

    def edit_at_all_times(self, edit: Edit) -> None:
        """Change what is now and what was at each time: a layer below all of them changed."""
        apply(self.plain, edit)
        for rev in self._times:
            apply(self.place / rev, edit)
            self._times[rev] = trees.snapshot(self.place / rev)

    def at(self, rev: str) -> Tree:
        """Return the tree as it was at `rev`."""
        return self._times[rev]

    def now(self) -> Tree:
        """Return the tree as it should look now."""
        return trees.snapshot(self.plain)

    @property
    def revs(self) -> list[str]:
        """All that is remembered, oldest first; the first is the base."""
        return list(self._times)
