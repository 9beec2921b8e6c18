"""A project that is moved while it is up takes the mount along: it is found, told of, taken off."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from envstack.environment import mounting
from envstack.environment.steps import Step
from envstack.linux.mountinfo import read_mounts
from envstack.overlay import mount as overlay
from tests.environment.harness import Engine, mounts_at, refused
from tests.support import trees, waiting
from tests.support.edits import write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from envstack.model import Environment
    from tests.environment.harness import Bystander

    Make = Callable[..., Engine]
    Run = Callable[..., None]

pytestmark = pytest.mark.kernel


@contextmanager
def moved(engine: Engine) -> Iterator[Path]:
    """Move the project, or what holds it; yield the merged tree's new path, and move it back."""
    place = engine.project.parent if engine.mount == "." else engine.project
    away = place.with_name(place.name + "away")
    os.rename(place, away)
    try:
        yield away / engine.merged.relative_to(place)
    finally:
        os.rename(away, place)


def sources() -> set[str]:
    return {os.fsdecode(mount.source) for mount in read_mounts()}


@pytest.fixture(params=[".envstack/merged", "."])
def anywhere(make_engine: Make, project: Path, request: pytest.FixtureRequest) -> Engine:
    """An environment that is up, in a directory that can be moved although it is mounted over."""
    (project / "in").mkdir()
    made = make_engine(project=project / "in", mount=request.param, base=[write("known")])
    made.up()
    return made


@pytest.mark.parametrize("names", ["the stack file", "the merged tree"])
def test_down_takes_the_mount_off_where_it_is(anywhere: Engine, names: str) -> None:
    engine = anywhere
    (engine.merged / "file").write_text("kept")
    upper = engine.status()["upper"]
    target = {"stack": str(engine.stack)} if names == "the stack file" else {"upper": upper}
    with moved(engine) as merged:
        assert mounts_at(merged) == [f"envstack:{upper}"]
        assert engine.call("env.down", **target)["state"] == "down"
        assert f"envstack:{upper}" not in sources()
    assert engine.up()["state"] == "up"
    assert (engine.merged / "file").read_text() == "kept"


def test_purge_takes_the_mount_off_before_it_deletes(engine: Engine) -> None:
    upper = engine.status()["upper"]
    with moved(engine):
        engine.down(purge=True)
        assert f"envstack:{upper}" not in sources()
        assert engine.environments() == []


def test_down_is_refused_while_somebody_is_inside_where_it_is(
    engine: Engine, bystander: Callable[[], Bystander]
) -> None:
    with moved(engine) as merged:
        holder = bystander()
        holder.do(f"os.chdir({str(merged)!r})")
        with refused(4, "held") as refusal:
            engine.down(purge=True)
        assert refusal.holds == {(holder.pid, "cwd")}
        holder.close()
    assert engine.up()["state"] == "up"


@pytest.mark.parametrize("place", ["the mount point", "a directory above it"])
def test_down_is_refused_where_the_mount_is_out_of_reach(
    engine: Engine, run: Run, place: str
) -> None:
    upper = engine.status()["upper"]
    with moved(engine) as merged:
        over = merged if place == "the mount point" else merged.parent
        run("mount", "-t", "tmpfs", "cover", over)
        try:
            with refused(4) as refusal:
                engine.down(purge=True)
            assert str(merged) in refusal.message
            assert "cover" in refusal.message
            assert str(over) in refusal.hint
        finally:
            run("umount", over)
        assert mounts_at(merged) == [f"envstack:{upper}"]
    assert engine.up()["state"] == "up"


def test_a_cover_above_the_mount_point_that_stays_where_it_is_refuses_down(
    engine: Engine, run: Run
) -> None:
    run("mount", "-t", "tmpfs", "cover", engine.merged.parent)
    try:
        with refused(4) as refusal:
            engine.down(purge=True)
        assert "cover" in refusal.message
    finally:
        run("umount", engine.merged.parent)
    assert engine.up()["state"] == "up"


@pytest.mark.parametrize("what", [".", "dir"])
def test_layers_are_not_deleted_while_any_of_the_tree_is_mounted(
    engine: Engine, run: Run, directory: Callable[[], Path], what: str
) -> None:
    """Somebody binds it at the last moment, which keeps nobody from taking the mount off."""
    engine.write("dir/file")
    elsewhere = directory()
    engine.at[Step.UNMOUNT] = lambda: run("mount", "--bind", engine.merged / what, elsewhere)
    try:
        with refused(4) as refusal:
            engine.down(purge=True)
        assert refusal.hint == f"umount {elsewhere}"
        assert trees.snapshot(elsewhere)
        (elsewhere / "written").write_text("and kept")
    finally:
        engine.at.clear()
        run("umount", elsewhere)
    assert engine.up()["state"] == "up"
    assert (engine.merged / what / "written").read_text() == "and kept"


def test_everything_else_tells_that_it_was_moved_and_the_way_out(engine: Engine) -> None:
    engine.write("file")
    upper = engine.status()["upper"]
    with moved(engine) as merged:
        row = engine.call("env.status", upper=upper)
        assert row["state"] == "degraded"
        assert str(merged) in row["reason"]
        told = [row["hint"]]
        for method in ("env.checkpoint", "env.rollback", "env.diff", "env.compare"):
            with refused(4) as refusal:
                engine.call(method, upper=upper)
            assert "moved" in refusal.message
            told.append(refusal.hint)
        with refused(4) as refusal:
            engine.up()
        assert "moved" in refusal.message
        told.append(refusal.hint)
        assert all("move it back" in hint for hint in told)
        assert all(f"envstack down {engine.stack}" in hint for hint in told)
    assert engine.up()["state"] == "up"
    assert engine.status()["hint"] == ""
    assert engine.checkpoint()["id"]


def test_up_at_the_new_place_names_the_environment_that_is_there(engine: Engine) -> None:
    with moved(engine) as merged:
        with refused(4) as refusal:
            engine.call("env.up", stack=str(merged.parents[1] / "envstack.yaml"))
        assert "move it back" in refusal.hint
        assert f"envstack down {engine.stack}" in refusal.hint
        assert len(engine.environments()) == 1
    assert engine.up()["state"] == "up"


def test_a_daemon_that_starts_meanwhile_mounts_nothing_and_says_why(engine: Engine) -> None:
    upper = engine.status()["upper"]
    with moved(engine) as merged:
        engine.stop()
        row = engine.call("env.status", upper=upper)
        assert (row["state"], "moved" in row["reason"]) == ("degraded", True)
        assert mounts_at(merged) == [f"envstack:{upper}"]
    assert engine.up()["state"] == "up"
    engine.write("file")
    assert engine.checkpoint()["id"]


def test_a_stack_file_that_is_gone_is_asked_back(engine: Engine) -> None:
    text = engine.stack.read_text()
    engine.stack.unlink()
    try:
        row = engine.environments()[0]
        assert (row["stack_exists"], row["project_exists"]) == (False, True)
        with refused(3) as refusal:
            engine.up()
        assert "put it back" in refusal.hint
        assert f"envstack down {engine.stack}" in refusal.hint
    finally:
        engine.stack.write_text(text)
    with moved(engine):
        row = engine.environments()[0]
        assert (row["stack_exists"], row["project_exists"]) == (False, False)


def test_what_is_mounted_elsewhere_at_that_moment_has_nothing_attached_twice(
    engine: Engine, run: Run, directory: Callable[[], Path]
) -> None:
    """Every change of the mount table has the keeper look, at any instant of a move."""
    elsewhere = directory()
    for _ in range(100):
        with moved(engine):
            run("mount", "-t", "tmpfs", "event", elsewhere)
            run("umount", elsewhere)
        assert len(mounts_at(engine.merged)) == 1


def test_a_project_that_comes_back_in_the_last_instant_has_one_mount(
    engine: Engine, run: Run, directory: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, away = directory(), engine.project.with_name(engine.project.name + "away")
    make, attach, done = mounting.make_mount_point, overlay.attach, threading.Event()

    def there_for_a_moment(env: Environment) -> None:
        os.rename(away, engine.project)
        make(env)
        os.rename(engine.project, away)

    def back(mount: int, point: bytes) -> None:
        os.rename(away, engine.project)
        attach(mount, point)
        done.set()

    monkeypatch.setattr(mounting, "make_mount_point", there_for_a_moment)
    monkeypatch.setattr(overlay, "attach", back)
    os.rename(engine.project, away)
    run("mount", "-t", "tmpfs", "event", elsewhere)
    assert done.wait(20)
    monkeypatch.undo()
    run("umount", elsewhere)
    waiting.until(lambda: len(mounts_at(engine.merged)) == 1, "one mount")
    engine.write("file")
    assert engine.checkpoint()["id"]
