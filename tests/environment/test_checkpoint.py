"""A checkpoint is a point of history with an id, perhaps a tag, and counts that come later."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from envstack.environment import checkpoint
from tests.environment.harness import mounts_at, nothing_changes, refused

if TYPE_CHECKING:
    from tests.environment.harness import Engine

pytestmark = pytest.mark.kernel


def test_what_is_answered_is_what_the_log_says(engine: Engine) -> None:
    engine.write("file")
    answer = engine.checkpoint("before the upgrade", tag="v1.0_a-b")
    assert re.fullmatch("[0-9a-f]{16}", answer["id"])
    assert answer["parent"] is None
    assert (answer["message"], answer["tag"]) == ("before the upgrade", "v1.0_a-b")
    assert answer["mode"] == "rotate"
    assert answer["changes"] is None
    assert answer["duration_ms"] > 0
    made = datetime.fromisoformat(answer["created_at"])
    assert answer["created_at"].endswith("Z")
    assert abs(datetime.now(UTC) - made) < timedelta(minutes=1)
    engine.settle()
    (row,) = engine.log()
    shared = ("id", "parent", "message", "tag", "created_at", "mode")
    assert {key: row[key] for key in shared} == {key: answer[key] for key in shared}
    assert row["head"] is True
    assert row["sealed"] is True
    assert engine.status()["head"]["id"] == answer["id"]


def test_the_log_is_newest_first_and_marks_one_head(engine: Engine) -> None:
    made = []
    for number in range(4):
        engine.write("file", str(number))
        made.append(engine.checkpoint(str(number))["id"])
    engine.rollback(made[1])
    rows = engine.log()
    assert [row["id"] for row in rows] == made[::-1]
    assert [row["id"] for row in rows if row["head"]] == [made[1]]
    assert [row["parent"] for row in rows] == [made[2], made[1], made[0], None]


def test_after_a_rollback_history_has_two_branches(engine: Engine) -> None:
    engine.write("file", "1")
    first = engine.checkpoint()["id"]
    engine.write("file", "2")
    second = engine.checkpoint()["id"]
    engine.rollback(first)
    engine.write("file", "3")
    third = engine.checkpoint()["id"]
    assert {row["id"]: row["parent"] for row in engine.log()} == {
        first: None,
        second: first,
        third: first,
    }
    for rev, content in ((second, "2"), (third, "3"), (first, "1")):
        engine.rollback(rev)
        assert (engine.merged / "file").read_text() == content


def test_changes_are_counted_in_the_background(engine: Engine) -> None:
    engine.write("known", "changed\n")
    engine.write("one")
    engine.write("two")
    (engine.merged / "dir" / "inner").unlink()
    answer = engine.checkpoint()
    engine.settle()
    assert engine.row(answer["id"])["changes"] == {"added": 2, "modified": 1, "deleted": 1}


def test_a_checkpoint_of_nothing_has_an_id_and_touches_no_mount(engine: Engine) -> None:
    engine.write("file")
    first = engine.checkpoint()
    mounted = mounts_at(engine.merged)
    second = engine.checkpoint("nothing", tag="nothing")
    third = engine.checkpoint("nothing again")
    assert len({first["id"], second["id"], third["id"]}) == 3
    assert (second["parent"], third["parent"]) == (first["id"], second["id"])
    assert mounts_at(engine.merged) == mounted
    engine.settle()
    assert engine.row(second["id"])["changes"] == {"added": 0, "modified": 0, "deleted": 0}
    engine.write("file", "more")
    for rev in ("nothing", first["id"], third["id"]):
        engine.rollback(rev, discard=True)
        assert (engine.merged / "file").read_text() == "written\n"


def test_a_change_of_the_root_directory_alone_is_no_checkpoint_of_nothing(engine: Engine) -> None:
    engine.merged.chmod(0o750)
    made = engine.checkpoint()["id"]
    engine.settle()
    assert engine.row(made)["changes"] == {"added": 0, "modified": 1, "deleted": 0}
    engine.rollback("base")
    assert engine.merged.stat().st_mode & 0o777 == 0o755
    engine.rollback(made)
    assert engine.merged.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("tag", ["", "-a", ".a", "a b", "a/b", "@", "a\n", "ä", "a:b"])
def test_what_is_no_tag_is_wrong_usage(engine: Engine, tag: str) -> None:
    engine.write("file")
    with nothing_changes(engine), refused(2):
        engine.checkpoint(tag=tag)


def test_a_tag_has_a_hundred_characters_at_most(engine: Engine) -> None:
    engine.write("file")
    with nothing_changes(engine), refused(2) as refusal:
        engine.checkpoint(tag="t" * 101)
    assert "100 characters at most" in refusal.message
    assert engine.checkpoint(tag="t" * 100)["tag"] == "t" * 100


def test_a_tag_is_taken_once_and_base_always(engine: Engine) -> None:
    engine.write("file")
    engine.checkpoint(tag="once")
    engine.write("file", "more")
    for tag in ("once", "base"):
        with nothing_changes(engine), refused(4) as refusal:
            engine.checkpoint(tag=tag)
        assert tag in refusal.message
    engine.checkpoint(tag="twice")


def test_checkpoints_in_close_succession_meet_no_work_of_the_last_one(engine: Engine) -> None:
    """The upper that is made ahead in the background may be just half made."""
    for number in range(60):
        engine.write("file", str(number))
        engine.checkpoint()
    assert len(engine.log()) == 60


def test_at_the_kernels_depth_the_next_checkpoint_is_refused_and_nothing_is_lost(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "MAX_LOWERS", 5)
    for number in range(4):
        engine.write("file", str(number))
        engine.checkpoint()
    engine.write("file", "one too many")
    for attempt in (engine.checkpoint, engine.rollback):
        with nothing_changes(engine), refused(4) as refusal:
            attempt()
        assert "5 layers" in refusal.message
    assert (engine.merged / "file").read_text() == "one too many"
    engine.rollback("@~2", discard=True)
    engine.write("file", "on")
    engine.checkpoint()


def test_at_the_kernels_depth_a_rollback_that_saves_nothing_goes_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "MAX_LOWERS", 5)
    for number in range(4):
        engine.write("file", str(number))
        engine.checkpoint()
    assert engine.rollback("@~1")["saved"] is None
    assert (engine.merged / "file").read_text() == "2"


def test_what_is_wrong_is_wrong_usage(engine: Engine) -> None:
    for mode in ("in-place", "swap", "Rotate"):
        with refused(2):
            engine.checkpoint(mode=mode)
    for params in ({"force": "yes"}, {"message": 5}, {"tag": ["a"]}, {"message": "a\0b"}):
        with refused(2):
            engine.call("env.checkpoint", stack=str(engine.stack), **params)
    assert engine.log() == []


def test_one_that_is_not_up_is_refused(engine: Engine) -> None:
    engine.down()
    for attempt in (engine.checkpoint, engine.rollback, engine.diff, engine.log):
        with refused(4, "not-up"):
            attempt()


def test_a_layer_that_was_moved_away_is_named_and_nothing_happens(engine: Engine) -> None:
    engine.write("file")
    base = engine.directory("base")
    away = base.rename(engine.project / "away")
    with nothing_changes(engine), refused(6) as refusal:
        engine.checkpoint()
    assert "base" in refusal.message
    away.rename(base)
    assert engine.checkpoint()["id"]


def test_a_message_may_be_any_text(engine: Engine) -> None:
    message = 'two\nlines, a "quote" and \U0001f40d; -- \'); DROP TABLE checkpoint'
    engine.checkpoint(message)
    assert engine.log()[0]["message"] == message
