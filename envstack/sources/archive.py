"""The `archive` entry: what a tar or zip archive holds, if it is the one that is meant.

What an archive may do is the business of `archive`, how one is fetched that of `fetching`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from envstack.errors import Damaged, EnvstackError
from envstack.sources.place import look_like, make_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from envstack.stackfile import ArchiveLayer
    from envstack.stackfile.limits import ArchiveLimits

_PIECE = 1 << 20


def build(
    layer: ArchiveLayer,
    file: int,
    tree: bytes,
    below: Sequence[bytes],
    limits: ArchiveLimits,
    tell: Callable[[str], None],
) -> None:
    """Make what the archive under the descriptor `file` holds in the empty directory `tree`.

    Nothing is made unless it has the layer's `sha256`. `below` are the trees that it will cover,
    topmost first, the project last. `tell` is told how far it is and may raise to end it. Raises
    what `unpack` raises; what was made by then stays.
    """
    from envstack.archive.reading import Reading  # late: a daemon may never need the formats
    from envstack.archive.unpack import unpack

    name = f"layer {layer.name!r}: {title(layer)}"
    before = os.fstat(file)
    found = digest(file, tell)
    if found != layer.sha256:
        raise Damaged(
            f"{name} has the sha256 {found}, and not {layer.sha256}",
            "get it again; if it is the one that you mean, put its sha256 into the stack file",
        )
    place = make_place(tree, layer.at, below)
    look_like(tree, layer.at, below)
    reading = Reading(name, limits, lambda entries: tell(f"{entries:,} entries unpacked"))
    unpack(file, place, reading, layer.strip)
    if identity(os.fstat(file)) != identity(before):
        raise EnvstackError(f"{name} changed while it was read", "envstack up")


def title(layer: ArchiveLayer) -> str:
    """Return how messages call the archive."""
    return os.fsdecode(os.path.basename(layer.archive.rstrip(b"/")) or layer.archive)


@contextmanager
def opened(path: bytes) -> Iterator[int]:
    """Yield a descriptor of the archive at `path`. Raises OSError, also where it is no file."""
    # O_NONBLOCK: opening a FIFO would wait for a writer.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileNotFoundError("it is not a file")
        yield file
    finally:
        os.close(file)


def digest(file: int, tell: Callable[[str], None]) -> str:
    """Return the SHA-256 of all that a file holds, in hexadecimal digits."""
    size = os.fstat(file).st_size
    found, offset = hashlib.sha256(), 0
    while piece := os.pread(file, _PIECE, offset):
        found.update(piece)
        offset += len(piece)
        tell(f"{_mib(offset)} of {_mib(size)} MiB compared")
    return found.hexdigest()


def identity(status: os.stat_result) -> str:
    """Return what is another after every change of a file, but for one in the same instant."""
    return (
        f"{status.st_dev}:{status.st_ino}:{status.st_size}"
        f":{status.st_mtime_ns}:{status.st_ctime_ns}"
    )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.1f}"
