"""What is sealed is out of everybody's reach, wherever they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from envstack.environment.recover import seal_again
from envstack.environment.steps import Step
from envstack.errors import StateError
from envstack.model import LayerId, new_id
from tests.environment.harness import LOCKED, refused
from tests.support import trees
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.environment.harness import Bystander, Engine

    Start = Callable[[], Bystander]

pytestmark = pytest.mark.kernel

WRITE = "open({path}, 'w').close()"


def test_a_shell_that_stays_in_the_old_mount_cannot_write_there(
    engine: Engine, bystander: Start, propagation: str
) -> None:
    shell = bystander()
    engine.write("file")
    shell.do("os.chdir(T)")
    sealed = engine.checkpoint(force=True)["id"]
    attempts = [
        "open('new', 'w')",
        "open('file', 'a')",
        "os.unlink('file')",
        "os.chmod('known', 0o600)",
        "os.setxattr('.', 'user.a', b'1')",
        "os.mkdir('/proc/self/cwd/d')",
    ]
    layer = trees.snapshot(engine.layer_of(sealed))
    assert [shell.do(code) for code in attempts] == ["EROFS"] * len(attempts)
    assert shell.do("answer = open('file').read()") == "written\n"
    engine.until_sealed(sealed)
    assert [shell.do(code) for code in attempts] == ["EROFS"] * len(attempts)
    assert trees.snapshot(engine.layer_of(sealed)) == layer
    assert shell.do("os.chdir(T); open('new', 'w').close()") is None
    assert (engine.merged / "new").exists()


COPIES = {
    "a namespace": (
        "syscalls.unshare(syscalls.CLONE_NEWNS); "
        "syscalls.set_propagation(b'/', syscalls.MS_REC | syscalls.MS_PRIVATE); C = T"
    ),
    "a detached clone": (
        "fd = syscalls.open_tree(T.encode(), syscalls.OPEN_TREE_CLONE); C = f'/proc/self/fd/{fd}'"
    ),
    "a clone of a directory": (
        "fd = syscalls.open_tree((T + '/dir').encode(), syscalls.OPEN_TREE_CLONE);"
        "C = f'/proc/self/fd/{fd}'"
    ),
    "a namespace that lifts the first lock": (
        "syscalls.unshare(syscalls.CLONE_NEWNS); "
        "syscalls.set_propagation(b'/', syscalls.MS_REC | syscalls.MS_PRIVATE); C = T; "
        "fd = syscalls.open_tree(T.encode());"
        "syscalls.mount_setattr(fd, attr_clr=syscalls.MOUNT_ATTR_RDONLY); os.close(fd)"
    ),
}


@pytest.mark.parametrize(("way", "step"), LOCKED, indirect=["way"])
@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_the_mount_made_at_the_worst_moment_cannot_change_a_sealed_layer(
    engine: Engine, bystander: Start, copy: str, step: Step
) -> None:
    other = bystander()
    engine.write("file")
    engine.at[step] = lambda: other.do(COPIES[copy])
    sealed = engine.checkpoint()["id"]
    engine.until_sealed(sealed)
    layer = engine.layer_of(sealed)
    before = trees.snapshot(layer)
    assert other.do("answer = os.listdir(C) != []") is True
    assert other.do("open(C + '/new', 'w')") == "EROFS"
    assert other.do("os.rename(C + '/inner', C + '/else')") in ("EROFS", "ENOENT")
    assert other.do("os.chmod(C, 0o700)") == "EROFS"
    assert trees.snapshot(layer) == before


def test_sealing_waits_for_an_unlinked_file_and_happens_when_it_is_closed(
    engine: Engine, bystander: Start
) -> None:
    reader = bystander()
    engine.write("gone")
    engine.write("file")
    reader.do("fd = os.open(T + '/gone', os.O_RDONLY); os.unlink(T + '/gone')")
    tries = []
    engine.at[Step.SEAL] = lambda: tries.append(1)
    sealed = engine.checkpoint(force=True)["id"]
    while len(tries) < 3:
        assert not engine.row(sealed)["sealed"]
    assert reader.do("answer = os.read(fd, 99).decode(); os.close(fd)") == "written\n"
    engine.until_sealed(sealed)


def test_sealing_waits_for_a_cwd_in_a_removed_directory(engine: Engine, bystander: Start) -> None:
    shell = bystander()
    shell.do("os.mkdir(T + '/d'); os.chdir(T + '/d'); os.rmdir(T + '/d')")
    tries = []
    engine.at[Step.SEAL] = lambda: tries.append(1)
    engine.write("file")
    sealed = engine.checkpoint(force=True)["id"]
    while len(tries) < 3:
        assert not engine.row(sealed)["sealed"]
    shell.do("os.chdir('/')")
    engine.until_sealed(sealed)


def test_a_copy_that_writes_on_keeps_the_layer_unsealed_until_it_is_done(
    engine: Engine, bystander: Start
) -> None:
    writer = bystander()
    engine.write("file", "")

    def copy() -> None:
        writer.enter_namespace("private")
        writer.do("fd = os.open(T + '/file', os.O_WRONLY)")

    engine.at[Step.LOCK] = copy
    tries: list[int] = []
    engine.at[Step.SEAL] = lambda: tries.append(1)
    sealed = engine.checkpoint()["id"]
    while len(tries) < 3:
        assert not engine.row(sealed)["sealed"]
    writer.do("os.write(fd, b'late'); os.close(fd)")
    engine.until_sealed(sealed)
    assert writer.do("open(T + '/file', 'w')") == "EROFS"
    assert (engine.merged / "file").read_text() == "late"


def test_the_next_checkpoints_do_not_wait_for_an_outstanding_seal(
    engine: Engine, bystander: Start
) -> None:
    reader = bystander()
    engine.write("gone")
    engine.write("file")
    reader.do("fd = os.open(T + '/gone', os.O_RDONLY); os.unlink(T + '/gone')")
    first = engine.checkpoint(force=True)["id"]
    engine.write("second")
    second = engine.checkpoint()["id"]
    engine.until_sealed(second)
    assert not engine.row(first)["sealed"]
    engine.rollback(first)
    assert sorted(path.name for path in engine.merged.iterdir()) == ["dir", "file", "known"]
    reader.do("os.close(fd)")
    engine.until_sealed(first)


def test_a_discarded_upper_is_deleted_when_nobody_uses_it_any_more(
    engine: Engine, bystander: Start
) -> None:
    reader = bystander()
    upper = engine.upper
    engine.write("gone")
    engine.write("file")
    reader.do("fd = os.open(T + '/gone', os.O_RDONLY); os.unlink(T + '/gone')")
    engine.rollback("base", discard=True, force=True)
    assert upper.exists()
    reader.do("os.close(fd)")
    engine.settle()
    assert not upper.parent.exists()


def test_nothing_waits_for_a_layer_that_was_deleted_before_it_was_sealed(engine: Engine) -> None:
    assert seal_again(engine.context, LayerId(new_id()))


def test_every_layer_of_a_history_stays_as_it_was_sealed(engine: Engine) -> None:
    layers = {}
    for number in range(10):
        engine.write("known", f"{number}\n")
        engine.write(f"file{number}")
        sealed = engine.checkpoint()["id"]
        engine.until_sealed(sealed)
        layers[sealed] = trees.snapshot(engine.layer_of(sealed))
        if number % 3 == 2:
            engine.rollback("@~2")
    engine.settle()
    assert {row["id"] for row in engine.log()} == layers.keys()
    for sealed, tree in layers.items():
        assert trees.snapshot(engine.layer_of(sealed)) == tree


@pytest.mark.parametrize("discard", [False, True])
def test_what_a_failed_commit_left_is_finished_by_the_next_request(
    engine: Engine, discard: bool
) -> None:
    """The swap has happened by then: a full disk, say, is met where there is no way back."""

    def fail() -> None:
        raise StateError("the store cannot be written")

    upper = engine.upper
    engine.write("file")
    engine.at[Step.COMMIT] = fail
    with refused(4):
        engine.rollback("base", discard=discard)
    engine.at.clear()
    assert engine.status()["state"] == "up"
    engine.write("new")
    sealed = [row["id"] for row in engine.log()]
    assert len(sealed) == (0 if discard else 1)
    assert sorted(path.name for path in engine.merged.iterdir()) == ["dir", "known", "new"]
    if discard:
        until(lambda: not upper.parent.exists(), "deletion", within=5)
    else:
        until(lambda: engine.row(sealed[0])["sealed"], "sealing", within=5)
