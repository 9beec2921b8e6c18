"""Waiting until the merged tree shows what the upper has.

A name that is made or moved through an overlay is in the upper an instant before it is in the
merged tree: the kernel's own entry for it follows when the file system below has answered
(vfs_mkdir and vfs_rename over ovl_mkdir and ovl_rename), and a process may lose its processor in
between. Both happen under one lock, that of the directory.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from envstack.overlay.descent import Descent

if TYPE_CHECKING:
    from collections.abc import Iterable

_TOO_LONG = b"x" * 2000
"""A name that no file system has: it is looked up under the lock, and nothing of it is kept."""


def await_shown(merged: bytes, directories: Iterable[bytes]) -> None:
    """Return once all shows that is in the upper by now, in these directories of `merged`.

    They are relative to it, each after those above it. One that is not there, or is covered by a
    mount, has nothing to show. Raises OSError.
    """
    with Descent([merged]) as place:
        for path in directories:
            place.go(path)
            try:
                os.stat(_TOO_LONG, dir_fd=place.fd(0))
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
