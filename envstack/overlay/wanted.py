"""Which paths of a merged tree are wanted, as a tree of names, and which of them are there at all.

A path is relative to the root of the merged tree, with neither `.` nor `..` in it; `b"."` is that
root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from envstack.overlay.descent import Descent
from envstack.overlay.merged import Name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from envstack.overlay.merged import LayerTree


class Wanted(dict[bytes, "Wanted"]):
    """The names that lead to what is wanted; without any, everything here is."""

    def __init__(self, paths: Iterable[bytes] = ()) -> None:
        super().__init__()
        split = sorted(map(_names, paths), key=len)
        if () not in split:
            for names in split:
                self._add(names)

    def below(self, name: bytes) -> Wanted:
        """Return what is wanted below one of the names."""
        return self.get(name) or Wanted()

    def _add(self, names: tuple[bytes, ...]) -> None:
        """Add a path no shorter than those before; one below another of them adds nothing."""
        at: Self | Wanted = self
        for name in names[:-1]:
            if name in at and not at[name]:
                return
            at = at.setdefault(name, Wanted())
        at.setdefault(names[-1], Wanted())


def absent(chains: Iterable[Sequence[LayerTree]], paths: Sequence[bytes]) -> list[bytes]:
    """Return those of `paths` that none of the chains shows. Raises OSError."""
    seen = [[_shows(tuple(chain), _names(path)) for path in paths] for chain in chains]
    return [path for path, *found in zip(paths, *seen, strict=True) if not any(found)]


def _shows(chain: tuple[LayerTree, ...], names: tuple[bytes, ...]) -> bool:
    layers = tuple(range(len(chain)))
    with Descent([tree.path for tree in chain]) as place:
        for name in names:
            shown = Name(place, chain, name).shown(layers)
            if shown is None:
                return False
            layers = shown.layers
            place.enter(name)
    return True


def _names(path: bytes) -> tuple[bytes, ...]:
    return tuple(name for name in path.split(b"/") if name not in (b"", b"."))
