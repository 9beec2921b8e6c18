"""An upper that repeats what layers hold is exchanged for a fresh one, once nobody is inside."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from envstack.daemon import freshening
from envstack.environment import fresh
from envstack.environment.steps import Step
from tests.environment.harness import mounts_at
from tests.support import trees, waiting, ways

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.environment.harness import Bystander, Engine

pytestmark = pytest.mark.kernel


@pytest.fixture
def way() -> str:
    return ways.NEWER


def live(engine: Engine) -> str:
    """Change the tree, seal it live, and wait until that would outlive a power cut."""
    engine.write("file", "sealed live")
    (engine.merged / "known").unlink()
    (engine.merged / "dir" / "inner").write_text("changed")
    made: str = engine.checkpoint(mode="live")["id"]
    engine.settle()
    waiting.until(lambda: engine.row(made)["sealed"] and engine.row(made)["durable"], "durability")
    return made


def is_due(engine: Engine) -> bool:
    (env,) = engine.context.store.db.environments()
    return fresh.is_due(engine.context, env)


def layers(engine: Engine) -> set[str]:
    return set(os.listdir(engine.home / "layers"))


@pytest.mark.parametrize("way", [ways.NEWER, ways.OLDER])
def test_up_lays_a_fresh_upper_where_nobody_is_inside(
    engine: Engine, way: str, propagation: str
) -> None:
    made = live(engine)
    before, upper, tree = engine.log(), engine.upper, trees.snapshot(engine.merged)
    assert is_due(engine)
    engine.up()
    assert not is_due(engine)
    assert engine.upper != upper
    assert os.listdir(engine.upper) == []
    assert trees.snapshot(engine.merged) == tree
    assert engine.diff() == []
    assert engine.status()["dirty"] is False
    assert len(mounts_at(engine.merged)) == 1
    assert engine.log() == before
    engine.settle()
    waiting.until(lambda: upper.parent.name not in layers(engine), "the space to come back")
    engine.write("file", "goes on")
    later = engine.checkpoint()["id"]
    engine.rollback(made)
    assert trees.snapshot(engine.merged) == tree
    engine.rollback(later)
    assert (engine.merged / "file").read_text() == "goes on"


def test_so_it_does_for_one_that_was_down(engine: Engine) -> None:
    live(engine)
    upper, tree = engine.upper, trees.snapshot(engine.merged)
    engine.down()
    engine.up()
    assert not is_due(engine)
    assert engine.upper != upper
    assert os.listdir(engine.upper) == []
    assert trees.snapshot(engine.merged) == tree
    engine.settle()
    waiting.until(lambda: upper.parent.name not in layers(engine), "the space to come back")


def test_after_a_rollback_in_place_the_space_comes_back_too(engine: Engine) -> None:
    engine.write("file", "first")
    first = engine.checkpoint()["id"]
    tree = trees.snapshot(engine.merged)
    engine.write("file", "second")
    (engine.merged / "dir" / "inner").unlink()
    engine.checkpoint()
    engine.rollback(first, mode="in-place")
    engine.settle()
    upper = engine.upper
    assert is_due(engine)
    waiting.until(lambda: engine.row(first)["durable"], "durability")
    engine.up()
    assert not is_due(engine)
    assert engine.upper != upper
    assert trees.snapshot(engine.merged) == tree
    assert engine.diff() == []


def test_the_feed_tells_of_another_mount_and_of_no_change(engine: Engine) -> None:
    live(engine)
    (env,) = engine.context.store.db.environments()
    journal = engine.context.store.journal
    engine.call("feed.sync", stack=str(engine.stack))
    place = journal.end(env.id)
    assert place is not None
    engine.up()
    engine.call("feed.sync", stack=str(engine.stack))
    engine.write("later")
    engine.call("feed.sync", stack=str(engine.stack))
    told = [json.loads(each.body) for each in journal.after(env.id, place, 100) or ()]
    assert [(event["event"], event.get("state")) for event in told] == [
        ("mount", "swapped"),
        ("sync", None),
        ("changes", None),
        ("sync", None),
    ]
    assert [change["path"] for change in told[2]["changes"]] == ["later"]


def test_while_somebody_is_inside_the_upper_stays(
    engine: Engine, bystander: Callable[[], Bystander]
) -> None:
    holder = bystander()
    holder.do("os.chdir(T)")
    live(engine)
    upper = engine.upper
    engine.up()
    assert engine.upper == upper
    holder.do("os.chdir('/')")
    engine.up()
    assert engine.upper != upper


def test_while_anything_is_not_sealed_the_upper_stays(engine: Engine) -> None:
    live(engine)
    upper = engine.upper
    engine.write("more")
    for _ in range(2):
        engine.up()
        assert engine.upper == upper
        assert (engine.merged / "more").read_text() == "written\n"
        engine.down()
    engine.up()
    (engine.merged / "more").unlink()
    engine.up()
    assert engine.upper != upper


@pytest.mark.parametrize(
    "write",
    [
        lambda merged: (merged / "file").write_text("sealed LIVE"),
        lambda merged: (merged / "new").touch(),
        lambda merged: (merged / "dir" / "inner").unlink(),
        lambda merged: (merged / "dir").chmod(0o700),
        lambda merged: os.setxattr(merged / "file", "user.a", b"1"),
    ],
    ids=["same size", "new", "deleted", "mode", "attribute"],
)
def test_what_is_written_between_the_comparison_and_the_lock_is_kept(
    engine: Engine, write: Callable[[Path], object]
) -> None:
    live(engine)
    upper = engine.upper
    engine.at[Step.LOCK] = lambda: write(engine.merged)
    engine.up()
    engine.at.clear()
    assert engine.upper == upper
    assert engine.diff() != [], "it is there, and not sealed"
    (engine.merged / "file").write_text("the lock was taken back")
    engine.settle()
    assert len(layers(engine)) == len(engine.context.store.db.layers()) - 1


def test_one_who_writes_at_the_lock_is_not_disturbed(
    engine: Engine, bystander: Callable[[], Bystander]
) -> None:
    live(engine)
    upper, writer = engine.upper, bystander()
    engine.at[Step.LOCK] = lambda: writer.do("fd = os.open(T + '/file', os.O_WRONLY)")
    engine.up()
    engine.at.clear()
    assert engine.upper == upper
    assert writer.do("os.write(fd, b'goes on')") is None


def test_a_large_upper_waits_until_it_is_down(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(engine)
    monkeypatch.setattr(fresh, "_MOST", 2)
    upper = engine.upper
    engine.up()
    assert engine.upper == upper
    engine.down()
    engine.up()
    assert engine.upper != upper


def test_a_head_that_is_not_on_the_disk_yet_is_waited_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(5, "a disk that takes its time")

    engine.at[Step.SYNC] = fail
    engine.write("file")
    made = engine.checkpoint(mode="live")["id"]
    waiting.until(lambda: engine.row(made)["sealed"], "the seal")
    assert not engine.row(made)["durable"]
    upper = engine.upper
    engine.up()
    assert engine.upper == upper
    engine.at.clear()
    waiting.until(lambda: engine.row(made)["durable"], "durability")
    engine.up()
    assert engine.upper != upper


def test_the_daemon_notices_later_that_nobody_is_inside_any_more(
    engine: Engine, bystander: Callable[[], Bystander], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshening, "_PAUSE", 0.05)
    monkeypatch.setattr(freshening, "_LONGEST_PAUSE", 0.05)
    holder = bystander()
    holder.do("os.chdir(T)")
    live(engine)
    upper = engine.upper
    assert engine.status()["upper"] == upper.parent.name
    holder.do("os.chdir('/')")
    waiting.until(lambda: engine.upper != upper, "a fresh upper", within=20.0)
    assert (engine.merged / "file").read_text() == "sealed live"
    waiting.until(lambda: not engine.service._freshening._again, "nothing is attended to any more")


def test_and_so_it_does_when_it_is_down(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshening, "_PAUSE", 0.05)
    monkeypatch.setattr(freshening, "_LONGEST_PAUSE", 0.05)
    live(engine)
    upper = engine.upper
    engine.down()
    waiting.until(lambda: upper.parent.name not in layers(engine), "the space", within=20.0)
    engine.up()
    assert (engine.merged / "file").read_text() == "sealed live"


def test_a_quiet_daemon_attends_to_nothing(engine: Engine) -> None:
    engine.write("file")
    engine.checkpoint()
    waiting.until(lambda: not engine.service._freshening._again, "all is in order")
