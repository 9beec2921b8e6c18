"""What the feed of one environment has told of its upper, entry by entry. It looks at no disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envstack.store.journal import Row

if TYPE_CHECKING:
    from envstack.store.journal import Followed, Journal


class Index:
    """The rows of the table `entry` that a feed has; written by `Journal.write` alone.

    A place is a directory, relative to the upper (`b""` for its root), and a name in it.
    """

    def __init__(self, journal: Journal, followed: Followed) -> None:
        self._journal = journal
        self._number = followed.number

    def row(self, directory: bytes, name: bytes) -> Row | None:
        """Return one entry, None where there is none."""
        query = "SELECT facts, ino, digest FROM entry WHERE followed = ? AND dir = ? AND name = ?"
        found = self._journal.find(query, self._number, directory, name)
        return Row(*found[0]) if found else None

    def rows(self, directory: bytes) -> dict[bytes, Row]:
        """Return what is in a directory."""
        query = "SELECT name, facts, ino, digest FROM entry WHERE followed = ? AND dir = ?"
        found = self._journal.find(query, self._number, directory)
        return {name: Row(*row) for name, *row in found}

    def names_of(self, ino: int) -> list[bytes]:
        """Return the paths of all names of a file.

        Of those with one link too: that another was made is told by no event at the first name.
        """
        query = "SELECT dir, name FROM entry WHERE followed = ? AND ino = ?"
        return [join(*place) for place in self._journal.find(query, self._number, ino)]

    def doubtful(self) -> dict[bytes, bytes]:
        """Return the paths of all files whose bytes may change unseen, and their facts."""
        query = "SELECT dir, name, facts FROM entry WHERE followed = ? AND digest IS NOT NULL"
        found = self._journal.find(query, self._number)
        return {join(directory, name): facts for directory, name, facts in found}

    def following(self, path: bytes, most: int) -> list[bytes]:
        """Return up to `most` paths in the order of directory and name, after that of `path`."""
        query = (
            "SELECT dir, name FROM entry WHERE followed = ? AND (dir, name) > (?, ?)"
            " ORDER BY dir, name LIMIT ?"
        )
        found = self._journal.find(query, self._number, *split(path), most)
        return [join(*place) for place in found]


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of a place."""
    return directory + b"/" + name if directory else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """Undo `join`."""
    directory, _, name = path.rpartition(b"/")
    return directory, name
