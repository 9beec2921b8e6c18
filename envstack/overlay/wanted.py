"""Which paths of a merged tree are wanted, as a tree of names, and which of them are there at all.

A path is relative to the root of the merged tree, with neither `.` nor `..` in it; `b"."` is that
root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envstack.overlay.descent import Descent
from envstack.overlay.merged import Name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from envstack.overlay.merged import LayerTree, Shown


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
        at: Wanted = self
        for name in names[:-1]:
            if name in at and not at[name]:
                return
            at = at.setdefault(name, Wanted())
        at.setdefault(names[-1], Wanted())


def absent(chains: Sequence[Sequence[LayerTree]], paths: Iterable[bytes]) -> list[bytes]:
    """Return those of `paths` that none of the chains shows. Raises OSError."""
    return [path for path in paths if not any(_shows(chain, _names(path)) for chain in chains)]


def shown_by(chain: Sequence[LayerTree], path: bytes) -> LayerTree | None:
    """Return the layer of a chain whose entry is shown at `path`, None for nothing or the root."""
    shown = _shown(chain, _names(path))
    return chain[shown[-1].entry.tree] if shown else None


def _shows(chain: Sequence[LayerTree], names: tuple[bytes, ...]) -> bool:
    return _shown(chain, names) is not None


def _shown(chain: Sequence[LayerTree], names: tuple[bytes, ...]) -> list[Shown] | None:
    """Return what a chain shows under each of `names` in turn; None if one is not there."""
    layers = tuple(range(len(chain)))
    way: list[Shown] = []
    with Descent([tree.path for tree in chain]) as place:
        for name in names:
            shown = Name(place, tuple(chain), name).shown(layers)
            if shown is None:
                return None
            way.append(shown)
            layers = shown.layers
            place.enter(name)
    return way


def _names(path: bytes) -> tuple[bytes, ...]:
    return tuple(name for name in path.split(b"/") if name not in (b"", b"."))
