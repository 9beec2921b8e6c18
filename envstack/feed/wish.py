"""Where in a tree to look: paths as a tree of names, each with or without all that is below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Wish(dict[bytes, "Wish"]):
    """The names to look at in a directory; all of them, to the last, where it is `whole`."""

    def __init__(self, *, whole: bool = False) -> None:
        super().__init__()
        self.whole = whole

    def below(self, name: bytes) -> Wish:
        """Return what is wished below a name."""
        # Not `or`: a tree that is wished for has no names, and is as false as an empty dictionary.
        return Wish(whole=True) if self.whole else self.get(name, Wish())


def everywhere() -> Wish:
    """Return the wish to look at all there is."""
    return Wish(whole=True)


def at(entries: Iterable[bytes], trees: Iterable[bytes] = ()) -> Wish:
    """Return the wish to look at some entries, and at some with all below them; b"." is the root.

    Paths are relative to the root of the tree.
    """
    root = Wish()
    for path in entries:
        _grow(root, path)
    for path in trees:
        _grow(root, path).whole = True
    return root


def _grow(root: Wish, path: bytes) -> Wish:
    at = root
    for name in path.split(b"/"):
        if name != b".":
            at = at.setdefault(name, Wish())
    return at
