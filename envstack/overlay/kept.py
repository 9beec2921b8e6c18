"""Whether a file that may have changed unseen holds what was kept of it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.linux.lease import is_open_for_writing
from envstack.overlay.content import same_bytes
from envstack.overlay.entry import open_to_read
from envstack.overlay.listed import Facts, facts_of, is_young

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Watch:
    """How an upper is read: `grain` is that of its time stamps, `tick` may raise to end it.

    `kept` are the trees that hold what the upper held, the topmost first.
    """

    kept: tuple[bytes, ...]
    grain: int
    tick: Callable[[], None]

    def look(self, path: bytes, file: int, facts: Facts) -> tuple[bool, bool]:
        """Tell whether an open file of the upper is what was kept, and whether it stays doubtful.

        `path` is where it lies, `facts` what was told of it.
        """
        # The lease comes first: what is mapped after it shows in the facts of later.
        is_written = is_open_for_writing(file)
        status = os.fstat(file)
        is_same = facts_of(status) == facts and self._holds(path, file)
        return is_same, is_written or is_young(status.st_ctime_ns, self.grain)

    def _holds(self, path: bytes, file: int) -> bool:
        """Tell whether the topmost of the trees that have a file there holds the same bytes."""
        for tree in self.kept:
            try:
                kept = open_to_read(tree + b"/" + path)
            except FileNotFoundError:
                continue
            except OSError:  # of another kind there, or too deep for a path
                return False
            try:
                is_file = stat.S_ISREG(os.fstat(kept).st_mode)
                return is_file and same_bytes(file, kept, os.fstat(file).st_size, self.tick)
            finally:
                os.close(kept)
        return False
