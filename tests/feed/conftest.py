"""Fixtures of the tests of the feed."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.feed.followed import Followed
from tests.feed.reader import Reader
from tests.feed.storms import LOWER
from tests.support import needs
from tests.support.inotify import limits_for_me
from tests.support.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Limited = Callable[[str, int], AbstractContextManager[None]]

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
def reading() -> Iterator[Callable[[Path], Reader]]:
    """`reading(UPPER)` starts a reader of the hints; it ends before the upper does."""
    with ExitStack() as stack:
        yield lambda upper: stack.enter_context(Reader(upper))


@pytest.fixture
def limited() -> Iterator[Limited]:
    """`with limited("max_user_watches", 5)`: of the whole machine, so let it be short.

    Sessions that do so wait for each other.
    """
    with limits_for_me():

        @contextmanager
        def limit(name: str, number: int) -> Iterator[None]:
            path = _LIMITS / name
            before = path.read_text()
            try:
                path.write_text(str(number))
            except OSError:
                needs.lack(f"a kernel whose {path} may be set")
            try:
                yield
            finally:
                path.write_text(before)

        yield limit


@pytest.fixture
def inotify_limit(limited: Limited) -> Iterator[Callable[[str, int], None]]:
    """`inotify_limit(name, value)` lowers a limit of the whole machine until the test's end."""
    with ExitStack() as stack:
        yield lambda name, value: stack.enter_context(limited(name, value))
