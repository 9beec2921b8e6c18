"""The mount is kept: what somebody takes away comes back, as it was."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from envstack.environment.steps import Step
from tests.environment.harness import Engine, mounts_at, refused
from tests.support import trees, waiting
from tests.support.edits import write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.environment.harness import Bystander
    from tests.support.ground import Ground

    Start = Callable[[], Bystander]
    Run = Callable[..., None]

pytestmark = pytest.mark.kernel


def back(engine: Engine) -> None:
    """Wait until the mount point shows the environment."""
    source = f"envstack:{engine.status()['upper']}"
    waiting.until(lambda: mounts_at(engine.merged)[-1:] == [source], "the mount is back")


def degraded(engine: Engine) -> str:
    """Wait until the environment is degraded; return the reason."""
    waiting.until(lambda: engine.status()["state"] == "degraded", "degraded")
    return str(engine.status()["reason"])


def up(engine: Engine) -> None:
    """Wait until the environment is up, and says no reason why not."""
    waiting.until(lambda: engine.status()["state"] == "up", "up")
    assert engine.status()["reason"] is None


@pytest.mark.parametrize("how", [[], ["-l"]], ids=["umount", "umount -l"])
def test_what_somebody_unmounts_comes_back_with_the_same_superblock(
    engine: Engine, bystander: Start, run: Run, propagation: str, how: list[str]
) -> None:
    engine.write("file")
    before, device = mounts_at(engine.merged), os.stat(engine.merged).st_dev
    run("umount", *how, engine.merged)
    back(engine)
    assert mounts_at(engine.merged) == before
    assert os.stat(engine.merged).st_dev == device
    assert (engine.merged / "file").read_text() == "written\n"
    assert engine.status()["state"] == "up"
    engine.write("file", "writable")
    engine.checkpoint()


def test_who_stood_in_what_was_taken_away_works_on_in_the_same_tree(
    engine: Engine, bystander: Start, run: Run
) -> None:
    shell = bystander()
    shell.do("os.chdir(T); f = open('file', 'w')")
    run("umount", "-l", engine.merged)
    back(engine)
    shell.do("f.write('through the old handle'); f.close(); open('known', 'a').write('more')")
    assert (engine.merged / "file").read_text() == "through the old handle"
    assert (engine.merged / "known").read_text() == "known\nmore"
    with refused(4, "held") as refusal:
        engine.checkpoint(mode="rotate")
    assert (shell.pid, "cwd") in refusal.holds


def test_who_has_no_more_than_a_mapping_of_what_was_taken_away_is_found(
    engine: Engine, bystander: Start, run: Run
) -> None:
    """No use of the mount that came back tells of it."""
    reader = bystander()
    reader.do("f = open(T + '/known'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)")
    reader.do("os.closerange(3, 99)")
    assert engine.status()["holders"][0]["holds"][-1]["what"] == "mapping"
    run("umount", "-l", engine.merged)
    back(engine)
    (row,) = engine.status()["holders"]
    assert (row["pid"], [hold["what"] for hold in row["holds"]]) == (reader.pid, ["mapping"])


def test_it_comes_back_every_time(engine: Engine, run: Run) -> None:
    for number in range(10):
        engine.write("file", str(number))
        run("umount", engine.merged)
        back(engine)
        engine.checkpoint()
    assert len(engine.log()) == 10
    assert len(mounts_at(engine.merged)) == 1


def test_what_is_mounted_over_it_is_left_alone_and_told_of(
    engine: Engine, run: Run, propagation: str
) -> None:
    before = mounts_at(engine.merged)
    run("mount", "-t", "tmpfs", "cover", engine.merged)
    try:
        assert "cover" in degraded(engine)
        for attempt in (engine.checkpoint, engine.rollback, engine.up):
            with refused(4) as refusal:
                attempt()
            assert "cover" in refusal.message
        assert mounts_at(engine.merged) == [*before, "cover"]
    finally:
        run("umount", engine.merged)
    up(engine)
    assert mounts_at(engine.merged) == before
    engine.write("file")
    engine.checkpoint()


def test_down_under_a_cover_is_refused_and_leaves_nothing_half_down(
    engine: Engine, run: Run
) -> None:
    before = mounts_at(engine.merged)
    run("mount", "-t", "tmpfs", "cover", engine.merged)
    try:
        with refused(4):
            engine.down()
        assert mounts_at(engine.merged) == [*before, "cover"]
    finally:
        run("umount", "-l", engine.merged)
    up(engine)
    engine.down()
    assert mounts_at(engine.merged) == []


@contextmanager
def at_work(engine: Engine, step: Step) -> Iterator[None]:
    """Hold the environment in the middle of a checkpoint, before `step`."""
    working, finish = threading.Event(), threading.Event()

    def work() -> None:
        working.set()
        finish.wait(20)

    engine.at[step] = work
    request = threading.Thread(target=engine.checkpoint)
    request.start()
    try:
        assert working.wait(10)
        yield
    finally:
        engine.at.clear()
        finish.set()
        request.join(20)


def test_something_else_in_its_place_is_left_alone_until_it_goes(engine: Engine, run: Run) -> None:
    engine.write("file")
    with at_work(engine, Step.COMMIT):
        run("umount", "-l", engine.merged)
        run("mount", "-t", "tmpfs", "other", engine.merged)
    try:
        assert "other" in degraded(engine)
        assert mounts_at(engine.merged) == ["other"]
    finally:
        run("umount", engine.merged)
    back(engine)
    up(engine)
    assert (engine.merged / "file").read_text() == "written\n"


def test_a_mount_point_that_was_removed_meanwhile_is_made_again(engine: Engine, run: Run) -> None:
    engine.write("file")
    with at_work(engine, Step.COMMIT):
        run("umount", "-l", engine.merged)
        trees.remove(engine.merged.parent)
    back(engine)
    assert (engine.merged / "file").read_text() == "written\n"
    assert (engine.merged.parent / ".gitignore").read_text() == "*\n"


def test_a_project_that_is_gone_for_a_while_is_degraded_and_up_brings_it_back(
    engine: Engine, run: Run
) -> None:
    engine.write("file")
    away = engine.project.with_name(engine.project.name + "away")
    os.rename(engine.project, away)
    run("umount", "-l", away / ".envstack" / "merged")
    assert degraded(engine)
    os.rename(away, engine.project)
    assert engine.up()["state"] == "up"
    assert (engine.merged / "file").read_text() == "written\n"
    engine.checkpoint()


def test_what_nobody_took_away_is_not_touched_by_other_mounts(
    engine: Engine, run: Run, ground: Ground
) -> None:
    other = ground.fresh("m")
    other.mkdir()
    before = mounts_at(engine.merged)
    for _ in range(5):
        run("mount", "-t", "tmpfs", "none", other)
        run("umount", other)
    other.rmdir()
    engine.settle()
    assert mounts_at(engine.merged) == before


@pytest.fixture
def two(engine: Engine, ground: Ground) -> Iterator[tuple[Engine, Sibling]]:
    """Two environments of one store; the second is the younger."""
    project = ground.fresh("p")
    project.mkdir()
    project.chmod(0o755)
    sibling = Sibling(engine, project)
    yield engine, sibling
    sibling.down(purge=True)
    trees.remove(project)


class Sibling(Engine):
    """Another project that is served by the service of the first."""

    def __init__(self, first: Engine, project: Path) -> None:
        super().__init__(first.home, project, {"base": [write("known", "the sibling's\n")]})
        self._first = first
        self.up()

    def call(self, method: str, **params: object) -> object:
        return self._first.call(method, **params)


def test_environments_stand_side_by_side(two: tuple[Engine, Sibling], run: Run) -> None:
    first, second = two
    assert [row["project"] for row in first.environments()] == [
        str(first.project),
        str(second.project),
    ]
    first.write("file", "the first's")
    second.write("file", "the second's")
    made = first.checkpoint(tag="same")["id"]
    second.checkpoint(tag="same")
    with refused(3):
        second.rollback(made)
    run("umount", first.merged)
    run("umount", second.merged)
    back(first)
    back(second)
    second.rollback("base")
    assert (first.merged / "file").read_text() == "the first's"
    assert not (second.merged / "file").exists()
    first.down()
    assert second.status()["state"] == "up"
    assert [row["state"] for row in first.environments()] == ["down", "up"]


def test_one_that_is_at_work_keeps_the_keeper_from_no_other(
    two: tuple[Engine, Sibling], run: Run
) -> None:
    first, second = two
    first.write("file")
    with at_work(first, Step.BUILD):
        run("umount", second.merged)
        waiting.until(lambda: mounts_at(second.merged) != [], "the sibling's mount", within=5)


def test_two_requests_for_one_environment_come_one_after_the_other(engine: Engine) -> None:
    engine.write("file")
    steps: list[tuple[int, Step]] = []
    for step in (Step.REGISTER, Step.COMMIT):
        engine.at[step] = lambda step=step: steps.append((threading.get_ident(), step))  # type: ignore[misc]
    writers = [threading.Thread(target=engine.checkpoint, args=(str(n),)) for n in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join(20)
    rows = engine.log()
    assert len(rows) == 4
    assert [row["parent"] for row in rows] == [*(row["id"] for row in rows[1:]), None]
    swaps = [step for _, step in steps]
    assert swaps[:2] == [Step.REGISTER, Step.COMMIT], "only the first had something to seal"
    assert set(swaps[2:]) == {Step.COMMIT}
