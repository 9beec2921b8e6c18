"""What fails after the point of no return, or meets something else halfway, is settled."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from envstack.environment import mounting, up
from envstack.environment.steps import Step
from envstack.errors import EnvstackError
from envstack.linux.mountinfo import read_mounts
from envstack.overlay import mount as overlay
from envstack.store.database import Database
from tests.environment.harness import LOCKED, Engine, mounts_at, refused
from tests.support import waiting
from tests.support.edits import write
from tests.support.ways import OLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from envstack.model import Environment

    Run = Callable[..., None]

pytestmark = pytest.mark.kernel


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every commit fail as it does when the disk is full."""

    def commit(*_: object) -> None:
        raise EnvstackError("the store's database cannot be written: full")

    with monkeypatch.context() as patched:
        patched.setattr(Database, "commit", commit)
        yield


def source(engine: Engine) -> str:
    return f"envstack:{engine.status()['upper']}"


def test_a_message_that_is_no_text_is_refused_before_anything_is_done(engine: Engine) -> None:
    engine.write("file")
    with refused(2, "usage"):
        engine.checkpoint("\udcff")
    engine.checkpoint("text")


def test_an_old_mount_that_is_taken_away_at_the_last_moment_never_comes_back(
    engine: Engine, run: Run
) -> None:
    engine.write("file")
    engine.at[Step.DETACH] = lambda: run("umount", "-l", engine.merged)
    engine.checkpoint()
    engine.at.clear()
    run("umount", engine.merged)
    waiting.until(lambda: mounts_at(engine.merged) == [source(engine)], "the new mount is back")


@pytest.mark.parametrize(("way", "step"), LOCKED, indirect=["way"])
def test_a_cover_put_on_in_the_middle_is_not_taken_off(
    engine: Engine, run: Run, step: Step
) -> None:
    engine.write("file")
    engine.at[step] = lambda: run("mount", "-t", "tmpfs", "cover", engine.merged)
    with refused(4):
        engine.checkpoint()
    engine.at.clear()
    assert mounts_at(engine.merged)[-1] == "cover"
    run("umount", engine.merged)
    engine.log()
    assert mounts_at(engine.merged) == [source(engine)]
    engine.write("writable")


@pytest.mark.parametrize("way", [OLDER], indirect=True)
def test_where_the_new_mount_cannot_be_attached_the_old_one_is_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.write("file")
    before, device = mounts_at(engine.merged), os.stat(engine.merged).st_dev
    attach, mounts = overlay.attach, iter(range(2))

    def fail_once(mount: int, point: bytes) -> None:
        if next(mounts) == 0:
            raise OSError(errno.ENOMEM, "no memory")
        attach(mount, point)

    with monkeypatch.context() as patched:
        patched.setattr(overlay, "attach", fail_once)
        with pytest.raises((OSError, EnvstackError)):
            engine.checkpoint()
    assert (mounts_at(engine.merged), os.stat(engine.merged).st_dev) == (before, device)
    assert engine.log() == []
    engine.write("file", "it takes writes")
    assert engine.checkpoint()["parent"] is None


def test_a_mount_that_a_killed_daemon_left_in_staging_is_taken_off(engine: Engine) -> None:
    engine.stop()
    hidden = engine.home / "staging" / "hidden"
    hidden.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "envstack:hidden", hidden], check=True)
    engine.start()
    assert not hidden.exists()
    assert os.listdir(engine.home / "staging") == []


def test_an_up_that_fails_after_one_that_was_killed_can_be_tried_again(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("killed")

    engine = make_engine(base=[write("known", "known\n")])
    engine.start()
    engine.at[Step.BUILD] = killed
    with monkeypatch.context() as patched:
        patched.setattr(up, "_undo", killed)
        patched.setattr(Database, "abandon", killed)
        with pytest.raises(RuntimeError):
            engine.up()
    engine.at.clear()
    engine.stop()
    engine.start()
    engine.merged.mkdir(parents=True, exist_ok=True)
    engine.write("in the way")
    with refused(4):
        engine.up()
    (engine.merged / "in the way").unlink()
    engine.up()
    assert (engine.merged / "known").exists()


def test_what_was_written_after_a_failed_commit_survives_a_restart_that_cannot_commit_either(
    engine: Engine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.write("file")
    with full_disk(monkeypatch):
        with pytest.raises(EnvstackError):
            engine.checkpoint()
        engine.write("precious")
        engine.stop()
        run("umount", engine.merged)
        engine.start()
    assert len(engine.log()) == 1
    engine.stop()
    engine.start()
    engine.up()
    assert (engine.merged / "precious").exists()


def test_requests_from_inside_find_an_environment_whose_commit_failed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.write("file")
    with full_disk(monkeypatch), pytest.raises(EnvstackError):
        engine.checkpoint()
    upper = mounts_at(engine.merged)[-1].removeprefix("envstack:")
    assert engine.call("env.status", upper=upper)["state"] == "up"
    assert len(engine.call("env.log", upper=upper)) == 1


def test_a_rollback_over_what_cannot_be_compared_saves_it(engine: Engine) -> None:
    engine.down()
    os.setxattr(engine.project / "base" / "dir", "trusted.overlay.metacopy", b"")
    engine.up()
    (engine.merged / "dir").chmod(0o700)
    assert engine.rollback()["saved"] is not None
    engine.log()
    os.removexattr(engine.project / "base" / "dir", "trusted.overlay.metacopy")


def test_a_change_of_the_root_in_the_middle_of_a_checkpoint_is_not_lost(engine: Engine) -> None:
    engine.write("file")
    engine.at[Step.LOCK] = lambda: engine.merged.chmod(0o700)
    engine.checkpoint()
    assert engine.merged.stat().st_mode & 0o777 == 0o700
    assert engine.diff() == []


def test_a_project_that_became_a_link_is_not_mounted_over_and_over(
    engine: Engine, directory: Callable[[], Path], run: Run
) -> None:
    moved, place = engine.project.with_name(f"{engine.project.name}-moved"), directory()
    engine.project.rename(moved)
    engine.project.symlink_to(moved)
    before = len(read_mounts())
    try:
        run("mount", "-t", "tmpfs", "event", place)
        waiting.until(lambda: "link" in (engine.environments()[0]["reason"] or ""), "degraded")
        assert len(read_mounts()) == before + 1
    finally:
        run("umount", place)
        engine.project.unlink()
        moved.rename(engine.project)


def test_what_is_mounted_while_a_mount_is_put_back_is_not_covered(
    engine: Engine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_mount_point = mounting.make_mount_point

    def meet(env: Environment) -> None:
        make_mount_point(env)
        if mounts_at(engine.merged) == []:
            run("mount", "-t", "tmpfs", "meanwhile", engine.merged)

    with monkeypatch.context() as patched:
        patched.setattr(mounting, "make_mount_point", meet)
        run("umount", engine.merged)
        waiting.until(lambda: "meanwhile" in (engine.environments()[0]["reason"] or ""), "it")
    assert mounts_at(engine.merged) == ["meanwhile"]
    run("umount", engine.merged)


def test_a_purge_beside_a_deletion_in_the_background_is_done(engine: Engine) -> None:
    for number in range(5000):
        (engine.merged / f"file{number}").touch()
    begun = threading.Event()
    engine.at[Step.DELETE] = begun.set
    engine.rollback(discard=True)
    assert begun.wait(20)
    engine.down(purge=True)
    assert engine.environments() == []


def test_a_spare_made_beside_a_purge_goes_too(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.settle()
    engine.write("file")
    asked, purged = threading.Event(), threading.Event()
    knows = Database.knows

    def late(self: Database, env: object) -> bool:
        known = knows(self, env)  # type: ignore[arg-type]
        asked.set()
        assert purged.wait(20)
        return known

    with monkeypatch.context() as patched:
        patched.setattr(Database, "knows", late)
        engine.checkpoint()
        assert asked.wait(20)
        engine.down(purge=True)
        purged.set()
        waiting.until(lambda: engine.context.store.db.layers() == [], "no layer is left")
    engine.settle()


def test_status_during_swaps_never_says_degraded(engine: Engine) -> None:
    seen, done = set(), threading.Event()

    def look() -> None:
        while not done.is_set():
            row = engine.environments()[0]
            seen.add((row["state"], row["reason"]))

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(100):
        engine.write("file", str(number))
        engine.checkpoint()
        engine.rollback("base", discard=True)
    done.set()
    watcher.join()
    assert seen == {("up", None)}


def test_a_mount_point_that_is_our_own_directory_can_be_used_again(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(base=[])
    engine.declare({"mount": ".envstack", "layers": [{"name": "base", "dir": "base"}]})
    engine.merged = engine.project / ".envstack"
    engine.up()
    engine.down()
    engine.up()
