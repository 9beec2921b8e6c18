"""A rollback brings a tree back in full, and loses nothing that was not sealed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from envstack.environment import swap
from envstack.model import LayerId, new_id
from tests.environment.harness import mounts_at, nothing_changes, refused
from tests.support import trees
from tests.support.edits import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.environment.harness import Bystander, Engine

pytestmark = pytest.mark.kernel


@pytest.fixture
def history(engine: Engine) -> list[str]:
    """The ids of three checkpoints; `file` holds "0", "1" and "2" in them, the second is `mid`."""
    made = []
    for number in range(3):
        engine.write("file", str(number))
        made.append(engine.checkpoint(tag="mid" if number == 1 else None)["id"])
    return made


def content(engine: Engine) -> str | None:
    path = engine.merged / "file"
    return path.read_text() if path.exists() else None


REVS: dict[str, Callable[[list[str]], tuple[str, str, str | None]]] = {
    "@": lambda ids: ("@", ids[2], "2"),
    "@~0": lambda ids: ("@~0", ids[2], "2"),
    "@~": lambda ids: ("@~", ids[1], "1"),
    "@~2": lambda ids: ("@~2", ids[0], "0"),
    "@~3": lambda ids: ("@~3", "base", None),
    "a tag": lambda ids: ("mid", ids[1], "1"),
    "an id": lambda ids: (ids[0], ids[0], "0"),
    "a prefix": lambda ids: (ids[0][:15], ids[0], "0"),
    "base": lambda ids: ("base", "base", None),
}


@pytest.mark.parametrize("name", REVS)
def test_every_way_to_name_a_point_leads_there(
    engine: Engine, history: list[str], name: str
) -> None:
    rev, to, held = REVS[name](history)
    engine.write("file", "unsealed")
    answer = engine.rollback(rev)
    assert answer["to"] == to
    assert answer["mode"] == "swap"
    assert content(engine) == held
    head = engine.status()["head"]
    assert (head["id"] if head else "base") == to
    assert engine.diff() == []
    engine.rollback(answer["saved"])
    assert content(engine) == "unsealed"


@pytest.mark.parametrize(
    "rev", ["@~4", "@~999999999", "nobody", "", "@2", "HEAD", "@~-1", "ffffffffffffffff", "@~x"]
)
def test_what_names_no_point_is_no_such_thing(engine: Engine, history: list[str], rev: str) -> None:
    engine.write("file", "unsealed")
    for dry_run in (False, True):
        with nothing_changes(engine), refused(3, "not-found"):
            engine.rollback(rev, dry_run=dry_run)
    if rev:
        with refused(3, "not-found"):
            engine.diff(rev)


def test_a_prefix_must_be_long_enough_and_mean_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ["abce000000000000", "abcd111111111111", "abcd000000000000"]
    monkeypatch.setattr(
        "envstack.environment.history.new_id", lambda: ids.pop() if ids else new_id()
    )
    for number in range(3):
        engine.write("file", str(number))
        engine.checkpoint()
    with refused(3, "not-found") as refusal:
        engine.rollback("abcd")
    assert "2 ids" in refusal.message
    with refused(3, "not-found"):
        engine.rollback("abc")
    assert engine.rollback("abce")["to"] == "abce000000000000"
    assert engine.rollback("abcd1")["to"] == "abcd111111111111"


@pytest.mark.parametrize("length", [4, 6, 16])
def test_a_tag_that_already_means_another_checkpoint_is_refused(
    engine: Engine, length: int
) -> None:
    first = engine.checkpoint()["id"]
    with refused(4, "state"):
        engine.checkpoint(tag=first[:length])
    assert engine.rollback(first[:length])["to"] == first


def test_a_tag_that_is_hexadecimal_and_means_nothing_else_is_a_tag(engine: Engine) -> None:
    first = engine.checkpoint(tag="abc")["id"]
    engine.write("file")
    assert engine.rollback("abc")["to"] == first


def _rewrite(root: Path) -> None:
    (root / "known").write_text((root / "known").read_text())


def _touch(root: Path) -> None:
    os.utime(root / "known", (1, 1))
    os.utime(root / "dir", (1, 1))


def _make_and_remove(root: Path) -> None:
    (root / "new").mkdir()
    (root / "new").rmdir()


def _remake(root: Path) -> None:
    mode = (root / "dir").stat().st_mode
    (root / "dir" / "inner").unlink()
    (root / "dir").rmdir()
    (root / "dir").mkdir()
    (root / "dir").chmod(mode & 0o7777)
    (root / "dir" / "inner").write_text("inner\n")
    (root / "dir" / "inner").chmod(0o644)


def _there_and_back(root: Path) -> None:
    os.rename(root / "known", root / "other")
    os.rename(root / "other", root / "known")


NO_CHANGE: dict[str, Callable[[Path], None]] = {
    "nothing": lambda root: None,
    "a file rewritten with what it held": _rewrite,
    "times": _touch,
    "made and removed": _make_and_remove,
    "a directory made anew as it was": _remake,
    "renamed and renamed back": _there_and_back,
}

CHANGE: dict[str, Callable[[Path], None]] = {
    "content of the same size": write("known", "KNOWN\n"),
    "mode": lambda root: (root / "known").chmod(0o600),
    "owner": lambda root: os.chown(root / "known", 1, 1),
    "xattr": lambda root: os.setxattr(root / "dir", "user.a", b"1"),
    "the root's mode": lambda root: root.chmod(0o711),
    "deleted": lambda root: (root / "known").unlink(),
    "an empty directory": lambda root: (root / "new").mkdir(),
}


@pytest.mark.parametrize("what", NO_CHANGE)
def test_where_nothing_differs_nothing_is_saved(engine: Engine, what: str) -> None:
    NO_CHANGE[what](engine.merged)
    assert engine.rollback()["saved"] is None
    assert engine.log() == []
    engine.settle()
    rows = {path.name for path in (engine.home / "layers").iterdir()}
    assert engine.status()["upper"] in rows
    assert len(rows) <= 2, "the upper and the spare: what held nothing is deleted"


@pytest.mark.parametrize("what", CHANGE)
def test_where_anything_differs_it_is_saved_and_comes_back(engine: Engine, what: str) -> None:
    base = trees.snapshot(engine.merged)
    CHANGE[what](engine.merged)
    changed = trees.snapshot(engine.merged)
    assert changed != base
    saved = engine.rollback()["saved"]
    assert trees.snapshot(engine.merged) == base
    (row,) = engine.log()
    assert (row["id"], row["parent"], row["head"]) == (saved, None, False)
    assert "rollback" in row["message"]
    engine.rollback(saved)
    assert trees.snapshot(engine.merged) == changed
    engine.settle()
    counts = engine.row(saved)["changes"]
    assert sum(counts.values()) == len(trees.changes(base, changed))


def test_discard_saves_nothing_and_deletes_what_was_written(
    engine: Engine, history: list[str]
) -> None:
    engine.write("file", "unsealed")
    upper = engine.upper
    assert engine.rollback(discard=True)["saved"] is None
    assert content(engine) == "2"
    assert len(engine.log()) == 3
    engine.settle()
    assert not upper.parent.exists()


def test_a_clean_tree_at_its_own_head_keeps_its_mount(engine: Engine, history: list[str]) -> None:
    before = mounts_at(engine.merged)
    answer = engine.rollback()
    assert (answer["to"], answer["saved"]) == (history[2], None)
    assert mounts_at(engine.merged) == before


REVS_OF_DRY_RUNS = ["@", "@~1", "base"]


@pytest.mark.parametrize("rev", REVS_OF_DRY_RUNS)
def test_a_dry_run_changes_nothing_and_tells_what_then_happens(
    engine: Engine, history: list[str], rev: str
) -> None:
    engine.write("file", "unsealed")
    engine.write("new")
    (engine.merged / "dir" / "inner").unlink()
    (engine.merged / "dir").rmdir()
    (engine.merged / "dir").write_text("a file now")
    before = trees.snapshot(engine.merged)
    with nothing_changes(engine):
        told = engine.rollback(rev, dry_run=True)
    engine.rollback(rev)
    happened = trees.changes(before, trees.snapshot(engine.merged))
    rows = [(row["path"].encode(), row["change"], row["kind"]) for row in told["paths"]]
    assert set(rows) == happened
    assert rows == sorted(set(rows))
    counted = {change: sum(row[1] == change for row in rows) for change in told["changes"]}
    assert told["changes"] == counted
    assert told["saved"] is None


def test_a_dry_run_minds_nobody_inside(
    engine: Engine, history: list[str], bystander: Callable[[], Bystander]
) -> None:
    shell = bystander()
    shell.do("os.chdir(T)")
    assert engine.rollback("base", dry_run=True)["to"] == "base"


def test_a_checkpoint_whose_layer_is_gone_is_damaged_and_named(
    engine: Engine, history: list[str]
) -> None:
    engine.settle()
    lost = engine.layer_of(history[1])
    engine.rollback(history[0])
    engine.settle()
    engine.write("file", "unsealed")
    trees.remove(lost.parent)
    for rev in (history[1], history[2]):
        with nothing_changes(engine), refused(6, "damaged") as refusal:
            engine.rollback(rev)
        assert lost.parent.name in refusal.message
    with refused(6, "damaged"):
        engine.rollback(history[1], dry_run=True)
    with refused(6, "damaged"):
        engine.diff(history[1])
    engine.rollback("base")
    assert content(engine) is None


def test_a_dir_layer_that_is_gone_is_damaged_and_named(engine: Engine) -> None:
    engine.write("file")
    engine.checkpoint()
    base = engine.project / "base"
    os.rename(base, engine.project / "moved")
    try:
        with refused(6, "damaged") as refusal:
            engine.rollback("base")
        assert "base" in refusal.message
        assert str(base) in refusal.message
    finally:
        os.rename(engine.project / "moved", base)
    engine.rollback("base")
    assert not (engine.merged / "file").exists()


def test_what_was_left_is_kept_until_the_feed_has_told_it(engine: Engine) -> None:
    uppers = []
    with engine.context.store.journal.transaction():  # the feed cannot write
        for number in range(3):
            uppers.append(engine.upper)
            engine.write(f"passing {number}")
            engine.rollback(discard=True)
        for upper in uppers:
            assert not swap.discard(engine.context, LayerId(upper.parent.name))
            assert upper.exists()
    engine.settle()
    assert not [upper for upper in uppers if upper.exists()]
