"""What a start finds in a store that is not as it was left."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from envstack.environment.recover import find_mount
from envstack.linux import syscalls
from envstack.model import LayerId
from envstack.overlay import mount as overlay
from tests.environment.harness import Bystander, Engine, mounts_at, refused
from tests.support import trees

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[[], Bystander]

pytestmark = pytest.mark.kernel


def test_an_unknown_layer_goes_to_lost_and_found_with_its_content(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.write("file")
    engine.checkpoint()
    engine.stop()
    unknown = engine.home / "layers" / "0123456789abcdef"
    unknown.mkdir()
    (unknown / "fs").mkdir()
    (unknown / "fs" / "precious").write_text("somebody's work")
    engine.start()
    assert not unknown.exists()
    lost = engine.home / "lost+found" / "0123456789abcdef" / "fs" / "precious"
    assert lost.read_text() == "somebody's work"
    assert "0123456789abcdef" in caplog.text
    assert (engine.merged / "file").exists()
    assert len(engine.log()) == 1


def test_a_layer_whose_directory_is_gone_is_said_and_the_rest_works(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.write("file")
    made = engine.checkpoint()["id"]
    engine.settle()
    lost = engine.layer_of(made)
    engine.rollback("base")
    engine.stop()
    trees.remove(lost.parent)
    engine.start()
    assert lost.parent.name in caplog.text
    with refused(6, "damaged"):
        engine.rollback(made)
    engine.write("other")
    engine.checkpoint()


def test_a_layer_that_is_gone_under_the_mount_degrades_the_environment_with_the_reason(
    engine: Engine,
) -> None:
    engine.write("file")
    made = engine.checkpoint()["id"]
    engine.settle()
    lost = engine.layer_of(made).parent
    engine.down()
    away = engine.home / "away"
    os.rename(lost, away)
    with refused(6, "damaged") as refusal:
        engine.up()
    assert lost.name in refusal.message
    assert engine.status()["state"] == "down"
    os.rename(away, lost)
    engine.up()
    assert (engine.merged / "file").exists()


def test_what_is_up_stays_mounted_and_goes_on_over_a_restart(engine: Engine) -> None:
    engine.write("file")
    before, device = mounts_at(engine.merged), os.stat(engine.merged).st_dev
    for _ in range(3):
        engine.stop()
        engine.write("file", "while nobody kept it")
        assert engine.status()["state"] == "up"
        assert mounts_at(engine.merged) == before
        assert os.stat(engine.merged).st_dev == device
    engine.checkpoint()
    assert (engine.merged / "file").read_text() == "while nobody kept it"


def test_a_lock_that_was_left_on_the_mount_is_taken_off(engine: Engine) -> None:
    engine.stop()
    mount = overlay.open_mount(os.fsencode(engine.merged))
    overlay.lock_mount(mount)
    os.close(mount)
    engine.start()
    engine.write("file")


def test_a_layer_is_looked_for_where_its_mount_shows_and_not_under_another(
    engine: Engine, bystander: Start
) -> None:
    """Else the second lock would fall on what happens to be mounted over it."""
    other = bystander()
    other.enter_namespace("private")
    other.do("import subprocess; subprocess.run(['mount', '-t', 'tmpfs', 'cover', T], check=True)")
    layer = LayerId(engine.status()["upper"])
    engine.stop()
    # In this namespace it is gone, so that the covered copy is the only one.
    syscalls.umount(os.fsencode(engine.merged), syscalls.MNT_DETACH)
    found = find_mount(layer)
    if found is not None:
        try:
            assert not os.path.exists(f"/proc/self/fd/{found}/nothing")
            assert os.path.exists(f"/proc/self/fd/{found}/known"), "it is the overlay"
        finally:
            os.close(found)
    other.do("subprocess.run(['umount', T], check=True)")
    found = find_mount(layer)
    assert found is not None
    assert os.path.exists(f"/proc/self/fd/{found}/known")
    os.close(found)
    other.close()
    engine.start()
    assert (engine.merged / "known").exists()


def test_an_upper_that_others_still_use_is_not_mounted_twice(
    engine: Engine, bystander: Start
) -> None:
    shell = bystander()
    shell.do("os.chdir(T)")
    engine.write("file")
    engine.stop()
    syscalls.umount(os.fsencode(engine.merged), syscalls.MNT_DETACH)
    status = engine.status()
    assert status["state"] == "degraded"
    assert "still use" in status["reason"]
    assert mounts_at(engine.merged) == []
    shell.do("os.chdir('/')")
    assert engine.up()["state"] == "up"
    assert (engine.merged / "file").exists()
