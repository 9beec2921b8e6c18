"""`env.diff` and `env.compare`: which paths are looked at, and where each side of a change lies."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from envstack.environment import compare, rollback
from envstack.errors import Cancelled, NotFound, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.environment.harness import Engine, Json

pytestmark = pytest.mark.kernel


def diff(engine: Engine, *paths: str, **revisions: str) -> list[str]:
    rows: list[Json] = engine.call(
        "env.diff", stack=str(engine.stack), paths=list(paths), **revisions
    )
    return [row["path"] for row in rows]


@pytest.fixture
def changed(engine: Engine) -> Engine:
    """`dir/inner` is modified, `dir/new` and `top` are added, `known` is deleted."""
    for name in ("dir/inner", "dir/new", "top"):
        engine.write(name)
    (engine.merged / "known").unlink()
    return engine


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["dir"], ["dir/inner", "dir/new"]),
        (["top", "dir/new"], ["dir/new", "top"]),
        (["known"], ["known"]),
        (["dir/../top"], ["top"]),
        (["."], ["dir/inner", "dir/new", "known", "top"]),
        ([], ["dir/inner", "dir/new", "known", "top"]),
    ],
)
def test_a_difference_is_limited_to_paths(
    changed: Engine, paths: list[str], expected: list[str]
) -> None:
    assert diff(changed, *paths) == expected


def test_an_absolute_path_is_one_below_the_mount(changed: Engine) -> None:
    assert diff(changed, str(changed.merged / "top")) == ["top"]


@pytest.mark.parametrize("path", ["..", "dir/../../x", "/etc", "/"])
def test_a_path_outside_is_wrong_usage(changed: Engine, path: str) -> None:
    with pytest.raises(UsageError, match="outside"):
        diff(changed, path)


def test_a_path_that_is_on_neither_side_is_told(changed: Engine) -> None:
    with pytest.raises(NotFound, match="dir/nothing"):
        diff(changed, "top", "dir/nothing")
    changed.checkpoint()
    assert diff(changed, "known", a="base", b="@") == ["known"]
    with pytest.raises(NotFound, match="known"):
        diff(changed, "known")


def test_each_side_is_read_where_it_lies(changed: Engine) -> None:
    answer = changed.call("env.compare", stack=str(changed.stack))
    trees = [os.fsencode(tree) for tree in answer["trees"]]

    def content(row: Json, side: str) -> bytes | None:
        if row[side] is None:
            return None
        with open(os.path.join(trees[row[side]], os.fsencode(row["path"])), "rb") as file:
            return file.read()

    found = {row["path"]: (content(row, "old"), content(row, "new")) for row in answer["changes"]}
    assert found == {
        "dir/inner": (b"inner\n", b"written\n"),
        "dir/new": (None, b"written\n"),
        "known": (b"known\n", None),
        "top": (None, b"written\n"),
    }


def test_a_walk_ends_when_nobody_waits_for_it(changed: Engine) -> None:
    ctx = changed.context
    (env,) = ctx.store.db.environments()

    def gone() -> None:
        raise Cancelled("nobody waits")

    with pytest.raises(Cancelled):
        list(compare.compare(ctx, env, compare.Request(), gone))
    with pytest.raises(Cancelled):
        rollback.preview(ctx, env, rollback.Request(), gone)


def test_a_tree_that_only_the_daemon_reaches_is_named_by_its_process(tmp_path: Path) -> None:
    from envstack.daemon.sides import comparison
    from envstack.model import Change, ChangeType, FileKind
    from envstack.overlay.diff import Difference, LayerTree

    place = os.open(tmp_path, os.O_PATH)
    try:
        tree = LayerTree(b"/proc/self/fd/%d" % place)
        change = Change(b"x", ChangeType.ADDED, FileKind.FILE)
        answer = comparison([Difference(change, None, tree)])
        (named,) = answer["trees"]
        assert named == f"/proc/{os.getpid()}/fd/{place}"
        assert os.path.samefile(named, tmp_path)
    finally:
        os.close(place)
