"""A daemon killed while it carries over what is mounted inside leaves one of each, and the data."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from envstack.environment.steps import Step
from envstack.linux import syscalls
from envstack.linux.mountinfo import read_mounts
from tests.crash.daemon import KILL, Order
from tests.crash.pauses import SWAP

if TYPE_CHECKING:
    from tests.crash.crashbox import Crashbox

pytestmark = pytest.mark.kernel

AT = [step for step in (*SWAP, Step.SEAL) if step is not Step.REGISTER]


def points(box: Crashbox) -> list[bytes]:
    """Return where anything is mounted at the merged tree and below, hidden ones too."""
    place = os.fsencode(box.merged)
    return sorted(each.point for each in read_mounts() if each.point.startswith(place))


@pytest.mark.parametrize("propagation", ["shared"], indirect=True)
@pytest.mark.parametrize("step", AT)
def test_killed_at_a_step_there_is_one_of_each_after_the_next_start(
    crashbox: Crashbox, propagation: str, step: Step
) -> None:
    box = crashbox
    box.up()
    inner = box.merged / "more"
    (box.merged / "written").write_text("sealed or not\n")
    syscalls.mount(b"outer", os.fsencode(inner), b"tmpfs", 0, b"")
    (inner / "data").write_text("kept")
    (inner / "deep").mkdir()
    syscalls.mount(b"nested", os.fsencode(inner / "deep"), b"tmpfs", 0, b"")
    (inner / "deep" / "data").write_text("kept too")
    before = points(box)
    try:
        box.kill_at(Order(KILL, step), lambda: box.checkpoint("killed", force=True))
        assert (inner / "deep" / "data").read_text() == "kept too", "while no daemon runs"
        assert box.state() == "up"
        assert points(box) == before
        assert (inner / "data").read_text() == "kept"
        box.checkpoint("going on", force=True)
        assert points(box) == before
        assert (inner / "deep" / "data").read_text() == "kept too"
        assert (box.merged / "written").read_text() == "sealed or not\n"
    finally:
        for point in (inner / "deep", inner):
            syscalls.umount(os.fsencode(point), syscalls.MNT_DETACH)
    assert sorted(os.listdir(inner)) == ["file", "symlink"]
    box.down()
