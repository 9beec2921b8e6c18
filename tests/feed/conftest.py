"""Fixtures of the tests of the feed."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.feed.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


@pytest.fixture
def reading() -> Iterator[Callable[[Path], Reader]]:
    """`reading(UPPER)` starts a reader of the hints; it ends before the upper does."""
    with ExitStack() as stack:
        yield lambda upper: stack.enter_context(Reader(upper))


@pytest.fixture
def limited() -> Callable[[str, int], AbstractContextManager[None]]:
    """`with limited("max_user_watches", 5)`: of the whole machine, so let it be short."""

    @contextmanager
    def limit(name: str, number: int) -> Iterator[None]:
        sysctl = Path("/proc/sys/fs/inotify") / name
        before = sysctl.read_text()
        sysctl.write_text(str(number))
        try:
            yield
        finally:
            sysctl.write_text(before)

    return limit
