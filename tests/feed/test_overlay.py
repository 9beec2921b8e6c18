"""What is done through a mounted overlay is hinted at where it lies in the upper."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from envstack.linux import syscalls
from envstack.overlay import mount as overlay
from tests.support import needs, ways
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.feed.reader import Reader

pytestmark = pytest.mark.kernel


@pytest.fixture
def merged(project: Path) -> Iterator[Path]:
    """A mounted overlay over `lower`; its upper is beside it."""
    needs.way(ways.NEWER)
    for name in ("lower", "upper", "work", "merged"):
        (project / name).mkdir()
    (project / "lower" / "dir").mkdir()
    for name in ("file", "other", "dir/inner"):
        (project / "lower" / name).write_text("lower\n")
    place = os.fsencode(project)
    mounted = overlay.build(
        overlay.Overlay(b"test", (place + b"/lower",), place + b"/upper", place + b"/work"), place
    )
    overlay.attach(mounted, place + b"/merged")
    os.close(mounted)
    yield project / "merged"
    syscalls.umount(place + b"/merged")


def test_each_way_to_change_the_merged_tree_is_hinted_at(
    reading: Callable[[Path], Reader], project: Path, merged: Path
) -> None:
    reader = reading(project / "upper")
    (merged / "file").write_text("copied up\n")
    (merged / "other").unlink()
    (merged / "dir" / "inner").chmod(0o600)
    (merged / "new").mkdir()
    (merged / "new" / "file").touch()
    (merged / "new" / "file").rename(merged / "new" / "moved")
    (merged / "link").hardlink_to(merged / "file")
    reader.await_truth()
    os.setxattr(merged / "new", "user.note", b"value")
    until(lambda: reader.touched(b"new"), "a hint at attributes")
    assert len(reader.doubts) == 1


def test_a_file_that_is_opened_to_be_mapped_is_followed_by_a_patrol(
    reading: Callable[[Path], Reader], project: Path, merged: Path
) -> None:
    (merged / "file").write_text("copied up\n")
    reader = reading(project / "upper")
    reader.await_truth()
    patrols = reader.patrols
    with (merged / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0] = 0
        until(lambda: reader.patrols > patrols, "a patrol")
