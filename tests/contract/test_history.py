"""What containerd asks of a snapshotter's book-keeping, asked of an environment's history.

The scenarios are those of containerd's suite (core/snapshots/testsuite), in envstack's words: to
prepare is to be up, to commit is a checkpoint, to view is a rollback, to remove is a purge.
"""

from __future__ import annotations

import os
import stat
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from envstack.client import RemoteError
from tests.support import trees
from tests.support.edits import chmod, chown, mkdir, remove, write
from tests.support.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.sandbox import Json
    from tests.support.story import Story

    Tell = Callable[..., Story]

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("propagation")]

STABLE = ("id", "parent", "message", "tag", "created_at", "mode")
"""What a row of the log says for ever; who is head and how much changed may still come to it."""


def known(row: Json) -> Json:
    return {key: row[key] for key in STABLE}


def history(sandbox: Sandbox) -> dict[str, Json]:
    return {row["id"]: row for row in sandbox.log()}


@pytest.fixture
def visitor(story: Tell) -> Iterator[tuple[Story, subprocess.Popen[str]]]:
    """A shell that stands inside the merged tree."""
    told = story(base=[write("file", "before")])
    with subprocess.Popen(
        ["sh"],
        cwd=told.sandbox.merged,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as shell:
        assert ask(shell, "echo here") == "here"
        yield told, shell
        shell.communicate("exit\n", timeout=10)


def ask(shell: subprocess.Popen[str], command: str) -> str:
    """Let the shell run a command that prints one line; return the line."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{command}\n")
    shell.stdin.flush()
    return shell.stdout.readline().rstrip("\n")


def test_an_environment_lives_from_up_to_purge(story: Tell) -> None:
    told = story(base=[write("foo", "foo\n", 0o777), mkdir("a"), mkdir("a/b"), mkdir("a/b/c")])
    sandbox = told.sandbox
    first = told.checkpoint("first")
    told.edit(write("bar", "bar\n", 0o777), write("foo", "bar\n", 0o777), remove("a/b"))
    second = told.checkpoint("second")
    rows = history(sandbox)
    assert list(rows) == [second, first]
    assert rows[first]["parent"] is None
    assert rows[second]["parent"] == first
    told.see_all_again()
    sandbox.down(purge=True)
    assert sandbox.environments() == []
    assert not os.path.ismount(sandbox.merged)


def test_what_is_being_worked_on_is_up_and_in_no_history(story: Tell) -> None:
    told = story(base=[])
    told.edit(write("foo", "foo\n"))
    status = told.sandbox.status()
    assert status["state"] == "up"
    assert status["head"] is None
    assert status["upper"] is not None
    assert told.sandbox.log() == []


def test_what_is_sealed_is_the_head_and_no_longer_the_upper(story: Tell) -> None:
    told = story(base=[])
    told.edit(write("foo", "foo\n"))
    upper = told.sandbox.status()["upper"]
    rev = told.checkpoint("message", tag="tag")
    status = told.sandbox.status()
    assert known(status["head"]) == known(history(told.sandbox)[rev])
    assert status["head"]["message"] == "message"
    assert status["head"]["tag"] == "tag"
    assert status["head"]["parent"] is None
    assert status["upper"] != upper


def test_parents_lead_back_to_the_first_checkpoint(story: Tell) -> None:
    told = story(base=[])
    told.edit(write("foo", "foo\n"))
    grandparent = told.checkpoint()
    told.edit(write("foo", "foo bar\n"))
    parent = told.checkpoint()
    told.edit(write("foo", "foo bar baz\n"))
    child = told.checkpoint()
    rows = history(told.sandbox)
    assert [rows[rev]["parent"] for rev in (child, parent, grandparent)] == [
        parent,
        grandparent,
        None,
    ]


@pytest.mark.parametrize("taken", ["tag", "base"])
def test_a_name_that_is_taken_is_refused_and_nothing_happens(story: Tell, taken: str) -> None:
    told = story(base=[])
    told.checkpoint(tag="tag")
    told.edit(write("foo", "not sealed yet"))
    before = told.sandbox.log()
    upper = told.sandbox.status()["upper"]
    with pytest.raises(RemoteError) as refused:
        told.sandbox.checkpoint(tag=taken)
    assert refused.value.exit_code == 4
    assert told.sandbox.log() == before
    assert told.sandbox.status()["upper"] == upper
    told.agree()


def test_up_on_what_is_up_changes_nothing(story: Tell) -> None:
    told = story(base=[write("foo", "foo")])
    told.edit(write("foo", "not sealed yet"))
    # Else the write may be told, and move the cursor, in between.
    told.sandbox.call("feed.sync", stack=str(told.sandbox.stack))
    before = told.sandbox.status()
    assert told.sandbox.up() == {**before, "outdated": [], "saved": None, "left": None}
    told.agree()


def test_a_checkpoint_says_for_ever_what_it_said_first(story: Tell) -> None:
    told = story(base=[])
    earliest = datetime.now(UTC)
    told.edit(write("foo", "1"))
    answer = told.sandbox.checkpoint("the message\nof two lines", tag="v1.0")
    told.judge.remember(answer["id"])
    latest = datetime.now(UTC)
    assert earliest <= datetime.fromisoformat(answer["created_at"]) <= latest
    assert answer["created_at"].endswith("Z")
    said = known(answer)
    told.edit(write("foo", "2"))
    second = told.checkpoint("another")
    told.rollback("base")
    told.edit(write("foo", "3"))
    told.rollback(second)
    told.sandbox.kill_daemon()
    assert known(history(told.sandbox)[answer["id"]]) == said


def test_a_name_is_free_again_once_the_environment_is_purged(story: Tell) -> None:
    told = story(base=[write("foo", "base")])
    told.edit(write("foo", "gone with the environment"))
    told.checkpoint(tag="tag")
    first = told.sandbox.status()
    told.sandbox.down(purge=True)
    told.sandbox.up()
    told.judge.restore("base")
    told.agree()
    assert told.sandbox.log() == []
    assert told.sandbox.status()["id"] != first["id"]
    told.checkpoint(tag="tag")


def test_every_checkpoint_is_listed_also_those_that_were_rolled_back(story: Tell) -> None:
    told = story(base=[])
    told.edit(write("trunk", "trunk"))
    trunk = told.checkpoint("trunk", tag="trunk")
    told.edit(write("left", "left"))
    left = told.checkpoint("left")
    told.rollback(trunk)
    told.edit(write("right", "right"))
    right = told.checkpoint("right")
    told.edit(write("right", "not sealed yet"))
    saved = told.rollback(left)["saved"]
    rows = told.sandbox.log()
    assert [(row["id"], row["parent"]) for row in rows] == [
        (saved, right),
        (right, trunk),
        (left, trunk),
        (trunk, None),
    ]
    assert [row["id"] for row in rows if row["head"]] == [left]
    told.see_all_again()


def test_a_revision_is_found_by_each_of_its_names(story: Tell) -> None:
    told = story(base=[])
    revs = told.tell([write("n", "1")], [write("n", "2")], [write("n", "3")])
    told.rollback(revs[2], discard=True)
    told.sandbox.checkpoint(tag="last")
    names = {
        "base": "base",
        "@~4": "base",
        "@~3": revs[0],
        "@~2": revs[1],
        "@~1": revs[2],
        "@": revs[2],
        "last": revs[2],
        revs[0]: revs[0],
        revs[1][:12]: revs[1],
    }
    for name, rev in names.items():
        found = {(row["path"], row["change"]) for row in told.sandbox.diff(name)}
        expected = trees.changes(told.judge.at(rev), told.judge.now())
        assert found == {(path.decode(), change) for path, change, _ in expected}, name


@pytest.mark.parametrize("rev", ["nowhere", "@~1", "0000", ""])
def test_a_revision_that_is_not_there_is_no_such_thing(story: Tell, rev: str) -> None:
    told = story(base=[])
    told.edit(write("foo", "not sealed yet"))
    with pytest.raises(RemoteError) as refused:
        told.sandbox.rollback(rev)
    assert refused.value.exit_code == 3
    told.agree()


def test_all_environments_of_a_store_are_listed(story: Tell, directory: Callable[[], Path]) -> None:
    told = story(base=[])
    with Sandbox(told.sandbox.home, directory(), {"base": []}) as other:
        other.up()
        rows = told.sandbox.environments()
        assert {row["stack"] for row in rows} == {str(told.sandbox.stack), str(other.stack)}
        assert {row["id"] for row in rows} == {told.sandbox.status()["id"], other.status()["id"]}


def test_history_between_two_kept_points_cannot_be_lost(story: Tell) -> None:
    told = story(base=[])
    revs = told.tell([write("n", "1")], [write("n", "2")], [write("n", "3")])
    for rev in (revs[0], "base", revs[2]):
        told.rollback(rev, discard=True)
        told.edit(write("m", "discarded"))
        told.rollback(rev, discard=True)
    assert list(history(told.sandbox)) == revs[::-1]
    told.see_all_again()


def test_a_purge_leaves_no_layer_behind(story: Tell) -> None:
    told = story(base=[])
    told.tell([write("n", "1")], [write("n", "2")], [remove("n")])
    told.sandbox.down(purge=True)
    told.sandbox.stop_daemon()
    assert os.listdir(told.sandbox.home / "layers") == []
    assert os.listdir(told.sandbox.home / "staging") == []


def test_nobody_inside_is_left_behind_unasked(
    visitor: tuple[Story, subprocess.Popen[str]],
) -> None:
    told, shell = visitor
    told.edit(write("file", "not sealed yet"))
    with pytest.raises(RemoteError) as refused:
        told.sandbox.checkpoint(mode="rotate")
    assert refused.value.exit_code == 4
    assert refused.value.kind == "held"
    assert [row["pid"] for row in refused.value.details()["holders"]] == [shell.pid]
    assert told.sandbox.log() == []
    told.agree()


def test_what_is_sealed_can_be_written_by_nobody(
    visitor: tuple[Story, subprocess.Popen[str]],
) -> None:
    told, shell = visitor
    told.edit(write("file", "sealed"))
    answer = told.sandbox.checkpoint(mode="rotate", force=True)
    told.judge.remember(answer["id"])
    assert [row["pid"] for row in answer["stranded"]] == [shell.pid]
    for attempt in ("echo late > file", "echo late > new", "rm file", "chmod 0 file", "touch file"):
        assert ask(shell, f"if {attempt}; then echo done; else echo refused; fi") == "refused"
    assert ask(shell, "cat file; echo") == "sealed"
    told.agree()
    told.edit(write("file", "in the next upper"))
    told.rollback(answer["id"], discard=True)


def test_the_log_may_be_read_while_each_row_is_looked_into(story: Tell) -> None:
    told = story(base=[])
    told.tell([write("n", "1")], [write("n", "2")], [remove("n"), mkdir("n")])
    for row in told.sandbox.log():
        assert known(history(told.sandbox)[row["id"]]) == known(row)
        changed = told.sandbox.diff("base", row["id"])
        expected = trees.changes(told.judge.at("base"), told.judge.at(row["id"]))
        assert {(change["path"], change["kind"]) for change in changed} == {
            (path.decode(), kind) for path, _, kind in expected
        }


def test_to_end_twice_is_to_end_once(story: Tell) -> None:
    told = story(base=[])
    told.edit(write("foo", "not sealed yet"))
    told.sandbox.stop_daemon()
    told.agree()
    told.sandbox.stop_daemon()
    told.agree()
    assert told.sandbox.down()["state"] == "down"
    assert told.sandbox.down()["state"] == "down"
    assert not os.path.ismount(told.sandbox.merged)
    told.sandbox.up()
    told.agree()


def test_the_root_is_as_the_topmost_layer_has_it(story: Tell) -> None:
    told = story(
        base=[chmod(".", 0o711), chown(".", 1, 2)], top=[chown(".", 5, 6), chmod(".", 0o2750)]
    )
    root = told.sandbox.merged
    assert stat.S_IMODE(root.stat().st_mode) == 0o2750
    told.edit(chmod(".", 0o1775), chown(".", 3, 4))
    rev = told.checkpoint()
    told.rollback("base")
    assert stat.S_IMODE(root.stat().st_mode) == 0o2750
    told.rollback(rev)
    assert (root.stat().st_uid, root.stat().st_gid) == (3, 4)
    assert stat.S_IMODE(told.sandbox.home.stat().st_mode) == 0o700
