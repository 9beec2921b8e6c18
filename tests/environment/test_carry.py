"""With `--force` what is mounted inside comes along with its data; what cannot refuses a swap."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from envstack.environment.steps import Step
from envstack.linux import syscalls
from envstack.linux.mountinfo import mounts_inside, read_mounts, topmost_at
from tests.environment.harness import Engine, mounts_at, nothing_changes, refused
from tests.support import trees, ways

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.environment.harness import Bystander

pytestmark = pytest.mark.kernel

OPERATIONS: dict[str, Callable[[Engine], Any]] = {
    "checkpoint": lambda engine: engine.checkpoint(force=True),
    "rollback": lambda engine: engine.rollback(mode="swap", force=True),
}


@pytest.fixture(params=OPERATIONS)
def operation(request: pytest.FixtureRequest) -> Callable[[Engine], Any]:
    return OPERATIONS[request.param]


@pytest.fixture
def way() -> str:
    return ways.NEWER


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """Mount something at the last of the arguments, and take off all that is there in the end."""
    subprocess.run(["mount", "-i", *arguments], check=True)
    try:
        yield
    finally:
        point = os.fsencode(arguments[-1])
        while topmost_at(read_mounts(), point) is not None:
            syscalls.umount(point, syscalls.MNT_DETACH)


def inside(engine: Engine) -> list[tuple[bytes, bytes]]:
    """Return what is mounted inside, as (point in the tree, source)."""
    mounts = read_mounts()
    own = topmost_at(mounts, os.fsencode(engine.merged))
    assert own is not None
    start = len(own.point) + 1
    return sorted((each.point[start:], each.source) for each in mounts_inside(mounts, own))


def everywhere(engine: Engine) -> list[bytes]:
    """Return the points of all mounts at and below that of the environment, hidden ones too."""
    point = os.fsencode(engine.merged)
    return sorted(each.point for each in read_mounts() if each.point.startswith(point))


def test_what_is_mounted_inside_comes_along_with_all_in_it(
    engine: Engine,
    operation: Callable[[Engine], Any],
    propagation: str,
    bystander: Callable[[], Bystander],
) -> None:
    (engine.merged / "file").write_text("changed")
    inner = engine.merged / "dir"
    bound = engine.project / "bound"
    bound.write_text("bound")
    with mounted("-t", "tmpfs", "outer", inner):
        (inner / "data").write_text("kept")
        (inner / "deep").mkdir()
        with (
            mounted("-t", "tmpfs", "nested", inner / "deep"),
            mounted("--bind", bound, engine.merged / "known"),
        ):
            (inner / "deep" / "more").write_text("kept too")
            before = inside(engine)
            assert [point for point, _ in before] == [b"dir", b"dir/deep", b"known"]
            reader = bystander()
            reader.do("f = open(T + '/dir/deep/more', 'a+')")
            points = everywhere(engine)
            with refused(4, "held"):
                engine.down()
            answer = operation(engine)
            assert answer["stranded"] == []
            assert inside(engine) == before
            assert everywhere(engine) == points, "each once"
            assert (inner / "data").read_text() == "kept"
            assert reader.do("f.write(', and on'); f.flush()") is None
            assert (inner / "deep" / "more").read_text() == "kept too, and on"
            assert (engine.merged / "known").read_text() == "bound"
            reader.do("f.close()")
            operation(engine)
            assert (inside(engine), everywhere(engine)) == (before, points)
    assert inside(engine) == []
    assert trees.snapshot(engine.merged)[b"dir/inner"].size == len("inner\n")


def test_another_namespace_that_follows_sees_them_come_along(
    engine: Engine, bystander: Callable[[], Bystander], propagation: str
) -> None:
    if propagation == "private":
        return
    service = bystander()
    service.enter_namespace("slave")
    with mounted("-t", "tmpfs", "outer", engine.merged / "dir"):
        (engine.merged / "dir" / "data").write_text("kept")
        (engine.merged / "file").write_text("changed")
        engine.checkpoint(force=True)
        assert service.do("answer = open(T + '/dir/data').read()") == "kept"
        assert service.do("answer = open(T + '/file').read()") == "changed"
    assert service.do("answer = os.listdir(T + '/dir')") == ["inner"]


def test_one_who_looks_is_left_behind_beside_a_mount_that_is_not(
    engine: Engine, bystander: Callable[[], Bystander]
) -> None:
    holder = bystander()
    holder.do("os.chdir(T)")
    engine.write("file")
    with mounted("-t", "tmpfs", "inside", engine.merged / "dir"):
        answer = engine.checkpoint(force=True)
        assert [row["pid"] for row in answer["stranded"]] == [holder.pid]
        assert inside(engine) == [(b"dir", b"inside")]


def test_a_mount_without_a_place_in_the_target_refuses(engine: Engine) -> None:
    engine.checkpoint("before")
    (engine.merged / "new").mkdir()
    with mounted("-t", "tmpfs", "inside", engine.merged / "new"):
        with nothing_changes(engine), refused(4, "held") as refusal:
            engine.rollback(mode="swap", force=True)
        assert refusal.holds == {(None, "mount-inside")}
        assert str(engine.merged / "new") in refusal.message
        assert refusal.hint == f"umount {engine.merged}/new"


@pytest.mark.parametrize("make", ["file", "symlink"])
def test_so_does_one_whose_place_is_something_else_there(engine: Engine, make: str) -> None:
    new = engine.merged / "new"
    new.write_text("a file") if make == "file" else new.symlink_to("dir")
    engine.checkpoint("before")
    new.unlink()
    new.mkdir()
    with (
        mounted("-t", "tmpfs", "inside", new),
        nothing_changes(engine),
        refused(4, "held"),
    ):
        engine.rollback(mode="swap", force=True)


def test_a_bind_of_the_tree_in_itself_refuses(engine: Engine) -> None:
    (engine.merged / "twice").mkdir()
    with (
        mounted("--bind", engine.merged / "dir", engine.merged / "twice"),
        nothing_changes(engine),
        refused(4, "held") as refusal,
    ):
        engine.checkpoint(force=True)
    assert (None, "bind") in refusal.holds


def test_another_environment_inside_refuses(
    engine: Engine, make_engine: Callable[..., Engine], directory: Callable[[], Path]
) -> None:
    other = make_engine(store=directory(), project=engine.merged / "dir", base=[])
    other.up()
    with refused(4, "held") as refusal:
        engine.checkpoint(force=True)
    assert "environment of its own" in refusal.message
    assert refusal.hint == "take that one down first"
    assert len(mounts_at(other.merged)) == 1
    other.close()
    engine.checkpoint(force=True)


@pytest.mark.parametrize("how", ["covered", "unbindable", "over the tree"])
def test_what_cannot_be_cloned_whole_refuses(engine: Engine, how: str) -> None:
    engine.write("file")
    inner = engine.merged / "dir"
    with mounted("-t", "tmpfs", "inside", inner):
        match how:
            case "covered":
                subprocess.run(["mount", "-t", "tmpfs", "cover", inner], check=True)
            case "unbindable":
                subprocess.run(["mount", "--make-unbindable", inner], check=True)
            case _:
                subprocess.run(["mount", "-t", "tmpfs", "cover", engine.merged], check=True)
        points = everywhere(engine)
        with refused(4):
            engine.checkpoint(force=True)
        assert everywhere(engine) == points
        if how == "over the tree":
            syscalls.umount(os.fsencode(engine.merged))
    engine.checkpoint()


def test_one_that_comes_at_the_last_moment_refuses_and_stays(engine: Engine) -> None:
    engine.write("file")
    with mounted("-t", "tmpfs", "first", engine.merged / "dir"):
        (engine.merged / "late").mkdir()
        late = os.fsencode(engine.merged / "late")
        engine.at[Step.LOCK] = lambda: syscalls.mount(b"late", late, b"tmpfs", 0, b"")
        before = engine.status()["upper"]
        with refused(4, "held") as refusal:
            engine.checkpoint(force=True)
        engine.at.clear()
        assert "at this moment" in refusal.message
        assert inside(engine) == [(b"dir", b"first"), (b"late", b"late")]
        assert engine.status()["upper"] == before
        engine.checkpoint(force=True)
        assert inside(engine) == [(b"dir", b"first"), (b"late", b"late")]
        syscalls.umount(late)


@pytest.mark.parametrize("way", [ways.OLDER])
def test_an_exchange_that_leaves_a_gap_carries_nothing(engine: Engine, way: str) -> None:
    engine.write("file")
    with (
        mounted("-t", "tmpfs", "inside", engine.merged / "dir"),
        nothing_changes(engine),
        refused(4, "held") as refusal,
    ):
        engine.checkpoint(force=True)
    assert "Linux before 6.5" in refusal.message


def test_an_exchange_that_fails_leaves_one_of_each(engine: Engine) -> None:
    engine.write("file")

    def fail() -> None:
        raise OSError(5, "a disk that fails")

    with mounted("-t", "tmpfs", "inside", engine.merged / "dir"):
        (engine.merged / "dir" / "data").write_text("kept")
        points = everywhere(engine)
        engine.at[Step.BENEATH] = fail
        with pytest.raises(OSError, match="fails"):
            engine.checkpoint(force=True)
        engine.at.clear()
        assert everywhere(engine) == points
        assert (engine.merged / "dir" / "data").read_text() == "kept"
        engine.checkpoint(force=True)
        assert (engine.merged / "dir" / "data").read_text() == "kept"
