"""What the crash tests share: a process that forks daemons, and sandboxes of such daemons."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.crash.crashbox import Crashbox
from tests.crash.nursery import Nursery
from tests.support import needs, ways

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.ground import Ground


@pytest.fixture(scope="session")
def nursery(ground: Ground) -> Iterator[Nursery]:
    """The process that forks this session's daemons."""
    with Nursery() as process:
        yield process


@pytest.fixture
def way(request: pytest.FixtureRequest) -> str:
    """The way of mounting: the newer one, but in tests that name another."""
    return needs.way(getattr(request, "param", ways.NEWER))


@pytest.fixture
def make_crashbox(
    ground: Ground, nursery: Nursery, filesystem: Callable[[str], Path], way: str
) -> Iterator[Callable[..., Crashbox]]:
    """`make_crashbox()` makes a project that is not up yet, `home` and `mount` as a `Crashbox` has.

    It depends on `filesystem` so that a store on one is closed before it is unmounted.
    """
    with ExitStack() as stack:

        def make(home: Path | None = None, mount: str = ".envstack/merged") -> Crashbox:
            box = Crashbox(ground.fresh("c"), nursery, home, mount, way)
            stack.callback(box.close)
            return box

        yield make


@pytest.fixture
def crashbox(make_crashbox: Callable[..., Crashbox], request: pytest.FixtureRequest) -> Crashbox:
    """A project whose environment is not up yet; a parameter is its mount point."""
    return make_crashbox(mount=getattr(request, "param", ".envstack/merged"))
