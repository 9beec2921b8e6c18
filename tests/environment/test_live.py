"""A live checkpoint: history goes on, and whoever is inside notices nothing."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from envstack.environment import status
from envstack.environment.steps import Step
from tests.environment.harness import another_boot, mounts_at, refused
from tests.support import needs, trees, ways
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envstack.model import EnvId
    from tests.environment.harness import Bystander, Engine

    Start = Callable[[], Bystander]
    Json = dict[str, Any]

pytestmark = pytest.mark.kernel


@pytest.fixture
def way() -> str:
    """One way of mounting is enough: no mount is exchanged."""
    return needs.way(ways.NEWER)


def live(engine: Engine, message: str = "", **options: Any) -> Json:
    return engine.checkpoint(message, mode="live", **options)


def test_the_upper_and_the_mount_stay_and_the_head_moves(engine: Engine) -> None:
    engine.write("file")
    before, table = engine.status(), mounts_at(engine.merged)
    answer = live(engine, "message", tag="tag")
    after = engine.status()
    assert mounts_at(engine.merged) == table
    assert after["upper"] == before["upper"]
    assert after["head"]["id"] == answer["id"]
    assert answer["mode"] == "live"
    assert answer["reason"] == "asked for"
    assert answer["unstable"] == []
    assert answer["changes"] == {"added": 1, "modified": 0, "deleted": 0}
    engine.settle()
    (row,) = engine.log()
    assert (row["mode"], row["sealed"], row["durable"]) == ("live", True, True)
    assert row["changes"] == answer["changes"]


def test_nothing_is_unsealed_after_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_LOOK", 60.0)
    engine.write("file")
    (engine.merged / "dir/inner").unlink()
    first = live(engine)["id"]
    assert engine.diff() == []
    assert engine.status()["dirty"] is False
    answer = engine.rollback(first)
    assert answer["saved"] is None
    assert (engine.merged / "file").exists()
    assert not (engine.merged / "dir/inner").exists()


def test_what_came_after_it_is_unsealed_and_saved_before_a_rollback(engine: Engine) -> None:
    engine.write("file", "1")
    first = live(engine)["id"]
    engine.write("file", "2")
    (engine.merged / "known").unlink()
    assert [(row["path"], row["change"]) for row in engine.diff()] == [
        ("file", "modified"),
        ("known", "deleted"),
    ]
    assert engine.status()["dirty"] is True
    saved = engine.rollback(first)["saved"]
    assert (engine.merged / "file").read_text() == "1"
    assert (engine.merged / "known").exists()
    engine.rollback(saved)
    assert (engine.merged / "file").read_text() == "2"
    assert not (engine.merged / "known").exists()


def test_what_is_deleted_stays_deleted_in_a_rotation_after_it(engine: Engine) -> None:
    """The rotated chain is the upper on what is mounted, never on the head's chain."""
    engine.write("made")
    live(engine)
    (engine.merged / "made").unlink()
    tree = trees.snapshot(engine.merged)
    second = engine.checkpoint(mode="rotate")["id"]
    assert trees.snapshot(engine.merged) == tree
    engine.settle()
    assert engine.row(second)["changes"] == {"added": 0, "modified": 0, "deleted": 1}
    engine.rollback("base")
    engine.rollback(second)
    assert trees.snapshot(engine.merged) == tree


def test_an_empty_upper_after_it_is_no_untouched_one(engine: Engine) -> None:
    engine.write("made")
    live(engine)
    (engine.merged / "made").unlink()
    assert list(engine.upper.iterdir()) == []
    assert [row["path"] for row in engine.diff()] == ["made"]
    assert engine.status()["dirty"] is True
    answer = live(engine)
    assert answer["changes"] == {"added": 0, "modified": 0, "deleted": 1}


def test_a_checkpoint_of_nothing_is_made_on_the_same_chain(engine: Engine) -> None:
    engine.write("file")
    first = live(engine)
    second = live(engine)
    assert second["id"] != first["id"]
    assert second["parent"] == first["id"]
    assert second["changes"] == {"added": 0, "modified": 0, "deleted": 0}
    assert engine.layer_of(second["id"]) == engine.layer_of(first["id"])
    assert len(list((engine.home / "staging").iterdir())) == 0
    engine.settle()
    assert engine.row(second["id"])["sealed"] is True


def test_only_what_changed_is_in_the_layer(engine: Engine) -> None:
    for number in range(5):
        engine.write(f"dir/{number}", str(number))
    live(engine)
    engine.write("dir/3", "three")
    (engine.merged / "dir/inner").unlink()
    layer = engine.layer_of(live(engine)["id"])
    assert sorted(os.listdir(layer)) == ["dir"]
    assert sorted(os.listdir(layer / "dir")) == ["3", "inner"]


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_written_down_is_good_after_a_restart(engine: Engine, restart: bool) -> None:
    for number in range(5):
        engine.write(f"dir/{number}", str(number))
    live(engine)
    if restart:
        engine.stop()
    engine.write("dir/3", "three")
    os.utime(engine.merged / "dir/4", ns=(1, 1))
    layer = engine.layer_of(live(engine)["id"])
    assert sorted(os.listdir(layer / "dir")) == ["3", "4"]


def _of_another_format(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    "lose",
    [Path.unlink, lambda path: path.write_bytes(b"torn" * 4096), _of_another_format],
    ids=["gone", "torn", "of another format"],
)
def test_without_a_record_the_trees_are_compared(
    engine: Engine, lose: Callable[[Path], object]
) -> None:
    for number in range(5):
        engine.write(f"dir/{number}", str(number))
    live(engine)
    engine.stop()
    lose(engine.home / "seals.db")
    engine.write("dir/3", "three")
    os.utime(engine.merged / "dir/4", ns=(1, 1))
    layer = engine.layer_of(live(engine)["id"])
    assert os.listdir(layer / "dir") == ["3"], "times alone are no difference"


def test_auto_is_live_where_somebody_is_inside(engine: Engine, bystander: Start) -> None:
    inside = bystander()
    inside.do("os.chdir(T + '/dir'); fd = os.open('new', os.O_WRONLY | os.O_CREAT)")
    inside.do("m = mmap.mmap(os.open('inner', os.O_RDWR), 0); here = os.stat('.').st_ino")
    answer = engine.checkpoint()
    assert answer["mode"] == "live"
    assert f"(pid {inside.pid})" in answer["reason"]
    inside.do("os.write(fd, b'goes on'); m[0:1] = b'I'; os.mkdir('made')")
    assert inside.do("answer = os.stat('.').st_ino == here and os.getcwd() == T + '/dir'")
    assert (engine.merged / "dir/new").read_text() == "goes on"
    inside.do("os.chdir('/'); os.close(fd); m.close()")
    inside.close()
    second = engine.checkpoint()
    assert (second["mode"], second["reason"]) == ("rotate", "nobody is inside")


def test_who_comes_when_nobody_was_inside_makes_it_live(engine: Engine, bystander: Start) -> None:
    engine.write("file")
    writer = bystander()
    engine.at[Step.LOCK] = lambda: writer.do("fd = os.open(T + '/file', os.O_WRONLY)")
    answer = engine.checkpoint()
    assert answer["mode"] == "live"
    assert "goes on writing" in answer["reason"]
    assert engine.log()[0]["id"] == answer["id"]
    assert writer.do("os.write(fd, b'goes on')") is None
    writer.do("os.close(fd)")


def test_rotate_refuses_whom_it_would_strand(engine: Engine, bystander: Start) -> None:
    engine.write("file")
    inside = bystander()
    inside.do("os.chdir(T)")
    with refused(4, "held"):
        engine.checkpoint(mode="rotate")
    answer = engine.checkpoint(force=True)
    assert answer["mode"] == "rotate"
    assert [row["pid"] for row in answer["stranded"]] == [inside.pid]


def test_a_write_through_a_mapping_is_in_the_next_one(engine: Engine, bystander: Start) -> None:
    """A second write to a page that is dirty already changes no time stamp."""
    engine.write("mapped", "0" * 8192)
    inside = bystander()
    inside.do("f = os.open(T + '/mapped', os.O_RDWR); m = mmap.mmap(f, 0); m[0:1] = b'1'")
    first = live(engine)["id"]
    inside.do("m[0:1] = b'2'")
    second = live(engine)["id"]
    inside.do("m.close(); os.close(f)")
    third = live(engine)
    assert third["changes"] == {"added": 0, "modified": 0, "deleted": 0}
    for rev, content in ((first, "1"), (second, "2"), (third["id"], "2")):
        assert (engine.layer_of(rev) / "mapped").read_text()[0] == content


def test_names_of_one_file_that_change_together_stay_names_of_one_file(engine: Engine) -> None:
    engine.write("one", "1")
    os.link(engine.merged / "one", engine.merged / "dir/two")
    first = live(engine)["id"]
    (engine.merged / "one").write_text("2")
    os.link(engine.merged / "one", engine.merged / "three")
    second = live(engine)["id"]
    for rev, names in ((first, ["one", "dir/two"]), (second, ["one", "dir/two", "three"])):
        engine.rollback(rev)
        assert len({(engine.merged / name).stat().st_ino for name in names}) == 1


def test_history_ends_at_the_depth_that_the_kernel_mounts(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("envstack.environment.live.MAX_LOWERS", 2)
    engine.write("file", "1")
    live(engine)
    engine.write("file", "2")
    with refused(4) as refusal:
        live(engine)
    assert "2 layers" in refusal.message
    assert os.listdir(engine.home / "staging") == []


def test_a_layer_that_is_gone_is_damage(engine: Engine) -> None:
    engine.write("file", "1")
    first = live(engine)["id"]
    layer = engine.layer_of(first)
    layer.rename(layer.with_name("away"))
    with refused(6):
        live(engine)
    layer.with_name("away").rename(layer)
    live(engine)


def test_with_sync_it_is_durable_when_the_answer_comes(engine: Engine) -> None:
    engine.write("file")
    answer = live(engine, sync=True)
    assert answer["durable"] is True
    assert engine.row(answer["id"])["durable"] is True


def test_after_another_boot_nothing_that_was_written_down_is_believed(
    engine: Engine, project: Path
) -> None:
    """What the upper holds may be what a power cut left of it, under the very same facts."""
    engine.write("file", "1")
    live(engine)
    status = (engine.upper / "file").stat()
    (engine.upper / "file").write_text("0")
    os.utime(engine.upper / "file", ns=(status.st_atime_ns, status.st_mtime_ns))
    engine.stop()
    with another_boot(project):
        assert live(engine)["changes"] == {"added": 0, "modified": 1, "deleted": 0}
        engine.stop()


def test_a_log_in_it_is_the_beginning_of_the_log_outside(engine: Engine, bystander: Start) -> None:
    writer = bystander()
    writer.begin("""
f = os.open(T + '/log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in range(3000):
    os.write(f, b'%d\\n' % number)
    if number == 100:
        os.close(os.open(T + '/begun', os.O_CREAT))
""")
    until((engine.merged / "begun").exists, "the writer's beginning")
    made = [engine.checkpoint()["id"] for _ in range(5)]
    writer.end()
    log = (engine.merged / "log").read_text()
    assert log == "".join(f"{number}\n" for number in range(3000))
    for rev in made:
        assert log.startswith((engine.layer_of(rev) / "log").read_text())


def test_a_file_that_never_stands_still_is_named(engine: Engine) -> None:
    """It is taken as it is, and what came of it later is in the next one."""
    engine.write("file", "0" * (2 << 20))
    engine.write("calm")
    path = engine.merged / "file"

    def change(_fd: int) -> bool:
        with path.open("r+") as file:
            file.write("1")
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("envstack.overlay.making.is_open_for_writing", change)
        first = live(engine)
    assert first["unstable"] == ["file"]
    assert (engine.layer_of(first["id"]) / "file").stat().st_size == 2 << 20
    second = live(engine)
    assert second["unstable"] == []
    assert trees.snapshot(engine.layer_of(second["id"]))[b"file"].digest == (
        trees.snapshot(engine.merged)[b"file"].digest
    )


def test_what_is_renamed_all_the_time_is_missed_by_none(engine: Engine, bystander: Start) -> None:
    for number in range(50):
        engine.write(f"dir/{number}")
    restless = bystander()
    for _ in range(3):
        restless.begin("""
for number in range(500):
    os.rename(T + '/dir/inner', T + '/known-not')
    os.rename(T + '/known-not', T + '/dir/inner')
""")
        layer = engine.layer_of(engine.checkpoint(mode="live")["id"])
        restless.end()
        assert {f"{number}" for number in range(50)} <= set(os.listdir(layer / "dir"))
        for number in range(50):
            (engine.merged / f"dir/{number}").touch()


def test_whoever_stands_still_meanwhile_is_sealed_at_one_instant(
    engine: Engine, bystander: Start
) -> None:
    """What was written while most was copied is in it; what is written after that is not."""
    engine.write("one", "1")
    engine.write("two", "1")
    inside = bystander()

    @contextmanager
    def freeze(_env: EnvId) -> Iterator[bool]:
        inside.do("""
for name in ('one', 'two', 'dir/three'): open(T + '/' + name, 'w').write('2')
os.unlink(T + '/known')""")
        yield True
        inside.do("open(T + '/one', 'w').write('3')")

    access = engine.service.access
    access.ctx = dataclasses.replace(access.ctx, freeze=freeze)
    answer = live(engine)
    layer = engine.layer_of(answer["id"])
    shown = {name: (layer / name).read_text() for name in ("one", "two", "dir/three")}
    assert shown == {"one": "2", "two": "2", "dir/three": "2"}
    assert answer["changes"] == {"added": 3, "modified": 0, "deleted": 1}
    assert [row["path"] for row in engine.diff()] == ["one"]


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_large_files_share_their_blocks_where_the_disk_can(
    make_engine: Callable[..., Engine], filesystem: Callable[[str], Path], kind: str
) -> None:
    disk = filesystem(kind)
    engine = make_engine(base=[], store=disk / "home")
    engine.up()
    engine.write("large", "x" * (16 << 20))
    os.sync()
    before = os.statvfs(disk)
    layer = engine.layer_of(live(engine, sync=True)["id"])
    after = os.statvfs(disk)
    assert (layer / "large").stat().st_size == 16 << 20
    assert (before.f_bfree - after.f_bfree) * after.f_frsize < 8 << 20
    engine.settle()
