"""The limits of inotify are the whole machine's: who lowers them waits for who needs them."""

from __future__ import annotations

import fcntl
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def limits_for_me() -> Iterator[None]:
    """Nobody else lowers them, or needs them as they are."""
    with _lock(fcntl.LOCK_EX):
        yield


@contextmanager
def limits_as_they_are() -> Iterator[None]:
    """Nobody lowers them."""
    with _lock(fcntl.LOCK_SH):
        yield


@contextmanager
def _lock(how: int) -> Iterator[None]:
    with open(Path(tempfile.gettempdir(), "es-inotify.lock"), "w") as lock:
        fcntl.flock(lock, how)
        yield
