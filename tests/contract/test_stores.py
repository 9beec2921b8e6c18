"""The same life on every file system that a store may lie on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.edits import chown, link, mkdir, remove, write
from tests.support.filesystems import FILESYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.story import Story

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_a_history_is_kept(
    story: Callable[..., Story], filesystem: Callable[[str], Path], kind: str
) -> None:
    told = story(
        store=filesystem(kind) / "store",
        base=[mkdir("lib"), write("lib/one", "1\n"), link("lib/one", "lib/two"), write("file")],
    )
    told.tell(
        [write("file", "x" * 100_000), chown("file", 1, 1)],
        [remove("lib"), mkdir("lib", 0o700), write("lib/three"), link("lib/three", "lib/four")],
        [remove("file"), mkdir("file"), write("file/inside")],
    )
    told.edit(write("file/inside", "not sealed"))
    told.sandbox.kill_daemon()
    told.sandbox.up()
    told.agree()
    told.rollback("base")
