"""Fixtures of the tests of the feed."""

from __future__ import annotations

import fcntl
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.feed.followed import Followed
from tests.feed.storms import LOWER
from tests.support import needs
from tests.support.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LIMITS = Path("/proc/sys/fs/inotify")


@pytest.fixture
def follow() -> Iterator[Callable[[Sandbox], Followed]]:
    """`follow(sandbox)` brings it up, and a mirror after it."""
    with ExitStack() as stack:

        def start(sandbox: Sandbox) -> Followed:
            followed = Followed(sandbox)
            stack.callback(followed.close)
            return followed

        yield start


@pytest.fixture
def followed(
    home: Path, project: Path, follow: Callable[[Sandbox], Followed]
) -> Iterator[Followed]:
    """An environment over the layer that the storms know, on the way of mounting that is best."""
    with Sandbox(home, project, {"base": LOWER}) as sandbox:
        yield follow(sandbox)


@pytest.fixture
def inotify_limit() -> Iterator[Callable[[str, int], None]]:
    """`inotify_limit(name, value)` lowers a limit of the whole machine until the test's end.

    Sessions that do so wait for each other.
    """
    with ExitStack() as stack:
        lock = stack.enter_context(open(Path(tempfile.gettempdir(), "es-inotify.lock"), "w"))
        fcntl.flock(lock, fcntl.LOCK_EX)

        def lower(name: str, value: int) -> None:
            path = _LIMITS / name
            before = path.read_text()
            try:
                path.write_text(str(value))
            except OSError:
                needs.lack(f"a kernel whose {path} may be set")
            stack.callback(path.write_text, before)

        yield lower
