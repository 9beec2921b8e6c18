"""A directory by reference that changes below the mount is noticed, and laid anew on request."""

from __future__ import annotations

import os
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from envstack.environment import drift
from envstack.environment.steps import Step
from envstack.sources import fingerprint
from tests.environment.harness import WITHIN, Bystander, mounts_at, refused
from tests.support import waiting
from tests.support.edits import apply, mkdir, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.environment.harness import Engine

    Make = Callable[..., Engine]

pytestmark = pytest.mark.kernel

Json = dict[str, Any]


def look(engine: Engine) -> Any:
    """Return what `status --drift` finds."""
    return engine.call("env.status", stack=str(engine.stack), drift=True)["drift"]


def relay(engine: Engine, *, force: bool = False) -> Json:
    answer: Json = engine.call("env.up", stack=str(engine.stack), relay=True, force=force)
    return answer


def paths(rows: list[Json]) -> list[str]:
    (row,) = rows
    return [path["path"] for path in row["paths"]]


def replace_file(path: Path, content: str) -> None:
    """Put another file in the place of this one, as editors do."""
    fresh = path.with_name("fresh")
    fresh.write_text(content)
    fresh.rename(path)


def replace_directory(path: Path) -> None:
    """Put a copy in the place of a directory, which lies beside it from now on."""
    old = path.with_name("old")
    path.rename(old)
    shutil.copytree(old, path, symlinks=True)


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a look follow another at once."""
    monkeypatch.setattr(drift, "_FRESH", 0)
    monkeypatch.setattr(drift, "_REST", 0)


@pytest.fixture
def below(engine: Engine) -> Path:
    """The directory below the mount, when its fingerprint is taken."""
    engine.settle()
    return engine.project / "base"


def test_nobody_knows_before_the_first_look_and_then_that_there_is_none(engine: Engine) -> None:
    engine.settle()  # the look after the first `up` is not the one to be met
    met = threading.Barrier(2, timeout=WITHIN)
    engine.at[Step.FINGERPRINT] = met.wait
    engine.down()
    assert engine.up()["drift"] is None
    met.wait()
    engine.settle()
    assert engine.status()["drift"] == []
    engine.down()
    assert engine.status()["drift"] is None


def test_each_command_tells_what_the_last_look_found(engine: Engine, below: Path) -> None:
    replace_file(below / "known", "other\n")
    assert engine.status()["drift"] == [], "status alone does not look"
    (row,) = look(engine)
    layer = engine.status()["layers"][0]
    assert row == {
        "layer": layer["id"],
        "name": "base",
        "reason": "changed",
        "paths": [{"path": "known"}],
        "entries_before": 3,
        "entries_now": 3,
    }
    engine.write("file")
    assert engine.status()["drift"] == [row]
    assert engine.up()["drift"] == [row]
    assert engine.checkpoint()["drift"] == [row]
    assert engine.rollback(dry_run=True)["drift"] == [row]
    assert engine.rollback("base")["drift"] == [row]


def test_up_looks_by_itself_where_that_is_quick(engine: Engine, below: Path) -> None:
    (below / "new").touch()
    assert paths(engine.up()["drift"]) == ["new"]


@pytest.mark.usefixtures("always_due")
def test_up_looks_in_the_background_where_it_is_not(
    engine: Engine, below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "_AT_ONCE", 2)
    (below / "new").touch()
    engine.up()
    engine.settle()
    assert paths(engine.status()["drift"]) == ["new"]


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("command", ["checkpoint", "rollback"])
def test_a_checkpoint_and_a_rollback_have_it_looked_for(
    engine: Engine, below: Path, command: str
) -> None:
    (below / "new").touch()
    assert getattr(engine, command)()["drift"] == [], "the answer does not wait for a look"
    engine.settle()
    assert paths(engine.status()["drift"]) == ["new"]


def test_no_look_follows_another_at_once(engine: Engine, below: Path) -> None:
    (below / "new").touch()
    engine.checkpoint()
    engine.settle()
    assert engine.status()["drift"] == []


@pytest.mark.usefixtures("always_due")
def test_no_look_is_begun_while_another_is_under_way(
    engine: Engine, below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    may_end = threading.Event()

    def slow(root: bytes, since_ns: int, tick: Callable[[int], None]) -> fingerprint.Seen:
        looks.append(root)
        assert may_end.wait(WITHIN)
        return look_at(root, since_ns, tick)

    look_at = fingerprint.look
    monkeypatch.setattr(fingerprint, "look", slow)
    for _ in range(3):
        engine.checkpoint()
    may_end.set()
    engine.settle()
    assert looks == [os.fsencode(below)]


def test_a_change_before_the_fingerprint_is_taken_is_drift(
    engine: Engine, below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_changed = threading.Event()
    look_at = fingerprint.look

    def late(root: bytes, since_ns: int, tick: Callable[[int], None]) -> fingerprint.Seen:
        assert is_changed.wait(WITHIN)
        return look_at(root, since_ns, tick)

    engine.down()
    monkeypatch.setattr(fingerprint, "look", late)
    engine.up()
    mounted_ns = time.time_ns()

    def change() -> bool:
        """Change it, and tell whether the clock of the file system has seen the mount."""
        (below / "new").write_text("new\n")
        return (below / "new").stat().st_ctime_ns > mounted_ns

    waiting.until(change, "a later time stamp")
    is_changed.set()
    engine.settle()
    assert paths(engine.status()["drift"]) == ["new"]
    assert paths(look(engine)) == ["new"]
    relay(engine)
    assert look(engine) == []


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda below: (below / "dir" / "inner").unlink(), ["dir"]),
        (lambda below: (below / "known").chmod(0o600), ["known"]),
        (lambda below: (below / "new").symlink_to("known"), ["new"]),
        (lambda below: (below / "known").unlink(), ["."]),
        (lambda below: [(below / f"new{number}").touch() for number in range(9)], None),
    ],
)
def test_what_changed_is_named_a_few_paths_at_most(
    engine: Engine, below: Path, change: Callable[[Path], object], shown: list[str] | None
) -> None:
    change(below)
    found = paths(look(engine))
    if shown is None:
        assert len(found) == 5
        assert all(path.startswith("new") for path in found)
    else:
        assert found == shown


def test_what_happens_in_the_merged_tree_is_no_drift(make_engine: Make, project: Path) -> None:
    made = make_engine()
    made.declare({"mount": "merged", "layers": [{"name": "project", "dir": "."}]})
    made.merged = project / "merged"
    apply(project, write("file", "file\n"))
    made.up()
    made.settle()
    apply(made.merged, write("file", "other\n"), mkdir("new"))
    made.checkpoint()
    assert look(made) == []


def test_a_directory_that_is_gone_is_said_and_cannot_be_laid_anew(
    engine: Engine, below: Path
) -> None:
    below.rename(engine.project / "elsewhere")
    (row,) = look(engine)
    assert (row["reason"], row["paths"], row["entries_now"]) == ("gone", [], 0)
    with refused(2) as refusal:
        relay(engine)
    assert "there is no such directory" in refusal.message
    (engine.project / "elsewhere").rename(below)
    assert look(engine) == []


def test_drift_outlives_the_daemon(engine: Engine, below: Path) -> None:
    engine.stop()
    (below / "new").touch()
    engine.start()
    engine.settle()
    assert paths(engine.status()["drift"]) == ["new"]


def test_down_and_up_mount_what_is_there_so_that_there_is_no_drift(
    engine: Engine, below: Path
) -> None:
    replace_directory(below)
    assert [row["reason"] for row in look(engine)] == ["replaced"]
    engine.down()
    engine.up()
    assert look(engine) == []


def test_a_directory_made_anew_before_the_fingerprint_is_taken_is_another_one(
    engine: Engine, below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_replaced = threading.Event()
    look_at = fingerprint.look

    def late(root: bytes, since_ns: int, tick: Callable[[int], None]) -> fingerprint.Seen:
        assert is_replaced.wait(WITHIN)
        return look_at(root, since_ns, tick)

    engine.down()
    monkeypatch.setattr(fingerprint, "look", late)
    engine.up()
    replace_directory(below)
    is_replaced.set()
    engine.settle()
    assert [row["reason"] for row in engine.status()["drift"]] == ["replaced"]
    assert relay(engine)["relaid"]["mode"] == "swap"


def test_a_copy_has_no_drift(make_engine: Make) -> None:
    made = make_engine(base=[write("known")])
    made.declare({"layers": [{"name": "base", "dir": "base", "copy": True}]})
    made.up()
    (made.project / "base" / "new").touch()
    assert look(made) == []


class TestRelay:
    """`up --relay`."""

    pytestmark = pytest.mark.usefixtures("propagation")

    def test_shows_what_was_replaced_and_what_is_new(self, engine: Engine, below: Path) -> None:
        merged = engine.merged
        assert (merged / "known").read_text() == "known\n"
        assert not (merged / "new").exists()
        replace_file(below / "known", "other\n")
        replace_file(below / "new", "new\n")
        assert (merged / "known").read_text() == "known\n", "else there is nothing to do here"
        assert not (merged / "new").exists(), "likewise"
        before = mounts_at(merged)
        answer = relay(engine)
        assert answer["relaid"] == {"mode": "refresh", "stranded": []}
        assert answer["drift"] == []
        assert (merged / "known").read_text() == "other\n"
        assert (merged / "new").read_text() == "new\n"
        assert mounts_at(merged) == before
        assert look(engine) == []

    def test_disturbs_nobody_who_is_inside(
        self, engine: Engine, below: Path, bystander: Callable[[], Bystander]
    ) -> None:
        inside = bystander()
        inside.do("os.chdir(T + '/dir')")
        inside.do("r = open('inner'); w = open(T + '/written', 'w'); w.write('1'); w.flush()")
        inside.do("m = mmap.mmap(os.open(T + '/known', os.O_RDWR), 0)")
        inside.do("watch = syscalls._libc.inotify_init1(0)")
        inside.do("syscalls._libc.inotify_add_watch(watch, os.fsencode(T), 0x100)")
        (below / "new").write_text("new\n")
        answer = relay(engine)
        assert [row["pid"] for row in answer["holders"]] == [inside.pid]
        assert answer["relaid"]["mode"] == "refresh"
        assert inside.do("answer = os.getcwd()") == str(engine.merged / "dir")
        assert inside.do("answer = r.read() + open('inner').read()") == "inner\ninner\n"
        inside.do("w.write('2'); w.flush(); m[:1] = b'K'; m.flush()")
        assert (engine.merged / "written").read_text() == "12"
        assert (engine.merged / "known").read_text() == "Known\n"
        assert (engine.merged / "new").read_text() == "new\n"
        engine.write("seen")
        event = "answer = select.select([watch], [], [], 10)[0] and os.read(watch, 99).hex()"
        assert b"seen" in bytes.fromhex(inside.do(event))

    def test_changes_no_option_of_the_mount(self, engine: Engine, below: Path) -> None:
        def options() -> list[str]:
            with open("/proc/self/mountinfo") as table:
                return [line for line in table if str(engine.merged) in line]

        before = options()
        (below / "new").touch()
        relay(engine)
        assert options() == before

    def test_exchanges_the_mount_where_the_directory_is_another_one(
        self, engine: Engine, below: Path
    ) -> None:
        engine.write("mine")
        replace_directory(below)
        apply(below, write("known", "other\n"), write("new", "new\n"))
        assert (engine.merged / "known").read_text() == "known\n"
        answer = relay(engine)
        assert answer["relaid"]["mode"] == "swap"
        assert answer["drift"] == []
        assert answer["upper"] == engine.status()["upper"]
        merged = engine.merged
        assert (merged / "known").read_text() == "other\n"
        assert (merged / "new").read_text() == "new\n"
        assert (merged / "mine").read_text() == "written\n"
        (row,) = engine.log()
        assert row["id"] == answer["saved"] == answer["head"]["id"]
        assert row["message"] == "before the layers were laid anew"
        engine.until_sealed(row["id"])
        assert look(engine) == []

    def test_makes_no_checkpoint_of_nothing(self, engine: Engine, below: Path) -> None:
        upper = engine.status()["upper"]
        replace_directory(below)
        (below / "new").write_text("new\n")
        answer = relay(engine)
        assert answer["relaid"] == {"mode": "swap", "stranded": []}
        assert answer["saved"] is None
        assert answer["upper"] != upper
        assert engine.log() == []
        assert (engine.merged / "new").read_text() == "new\n"
        engine.settle()
        assert not (engine.home / "layers" / upper).exists()

    def test_keeps_what_is_written_in_the_last_moment(self, engine: Engine, below: Path) -> None:
        replace_directory(below)
        engine.at[Step.REGISTER] = lambda: engine.write("late", "late\n")
        answer = relay(engine)
        engine.at.clear()
        assert not (engine.merged / "late").exists()
        (row,) = engine.log()
        assert row["id"] == answer["saved"]
        engine.rollback(row["id"])
        assert (engine.merged / "late").read_text() == "late\n"

    def test_exchanges_nothing_while_somebody_is_inside_unless_forced(
        self, engine: Engine, below: Path, bystander: Callable[[], Bystander]
    ) -> None:
        inside = bystander()
        inside.do("os.chdir(T)")
        replace_directory(below)
        with refused(4, "held") as refusal:
            relay(engine)
        assert refusal.holds == {(inside.pid, "cwd")}
        assert [row["reason"] for row in look(engine)] == ["replaced"]
        (stranded,) = relay(engine, force=True)["relaid"]["stranded"]
        assert stranded["pid"] == inside.pid

    def test_of_what_is_down_is_up(self, engine: Engine, below: Path) -> None:
        engine.down()
        (below / "new").touch()
        answer = relay(engine)
        assert answer["state"] == "up"
        assert "relaid" not in answer
        assert (engine.merged / "new").exists()

    def test_is_refused_where_the_stack_file_changed(self, engine: Engine) -> None:
        engine.declare({"layers": [{"name": "other", "dir": "base"}]})
        with refused(4) as refusal:
            relay(engine)
        assert "the stack file" in refusal.message
        engine.declare({"layers": [{"name": "base", "dir": "base"}]})

    def test_of_an_open_file_takes_hold_once_it_is_closed(
        self, engine: Engine, below: Path, bystander: Callable[[], Bystander]
    ) -> None:
        inside = bystander()
        inside.do("r = open(T + '/known')")
        replace_file(below / "known", "other\n")
        assert relay(engine)["holders"][0]["pid"] == inside.pid
        assert (engine.merged / "known").read_text() == "known\n"
        inside.do("r.close()")
        relay(engine)
        assert (engine.merged / "known").read_text() == "other\n"
