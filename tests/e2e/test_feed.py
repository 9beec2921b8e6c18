"""The feed as a user meets it: the README's example, the commands, and a daemon that is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from envstack.client import Changes, Event, Ready, awatch, sync, watch
from tests.cli.harness import WITHIN, Cli, interrupt, read
from tests.support import trees, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.kernel


@pytest.fixture
def cli(home: Path, project: Path) -> Iterator[Cli]:
    """Commands in a project that is up, with a directory of two files below."""
    (project / "src").mkdir()
    (project / "src" / "kept").write_text("as it was\n")
    (project / "src" / "doomed").write_text("delete me\n")
    cli = Cli(project, {"ENVSTACK_HOME": str(home)})
    assert cli("init").code == 0
    assert cli("up").code == 0
    yield cli
    cli("down", "--purge", "--yes")
    assert cli("daemon", "stop").code == 0


@pytest.fixture
def merged(cli: Cli) -> Path:
    return cli.cwd / ".envstack" / "merged"


@contextmanager
def running(cli: Cli, *command: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    with cli.start(command=command, stdout=subprocess.PIPE, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[bytes]) -> str:
    return read(process, 1)[0]


def kill_daemon(cli: Cli) -> None:
    pid = cli("daemon", "status", "--json").document["pid"]
    waiting.kill(pid, signal.SIGKILL, "the daemon")


def mirror_of(readme: str) -> str:
    """Return the example: the one block of Python that watches."""
    (example,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        if "watch(" in block
    )
    return str(example)


def seen(tree: Path) -> dict[bytes, tuple[str, str, bytes]]:
    """Return what the example copies of a tree."""
    found = trees.snapshot(tree).items()
    return {path: (entry.kind, entry.digest, entry.target) for path, entry in found}


def test_the_mirror_of_the_readme_follows_the_merged_tree(
    cli: Cli, merged: Path, directory: Any
) -> None:
    copy = directory() / "copy"
    example = mirror_of((ROOT / "README.md").read_text())

    def until_equal(what: str) -> None:
        def is_equal() -> bool:
            try:
                return copy.exists() and seen(copy) == seen(merged)
            except FileNotFoundError:  # it is changed while it is looked at
                return False

        waiting.until(is_equal, what, WITHIN)

    with running(cli, sys.executable, "-c", example, str(cli.cwd), str(copy)):
        until_equal("the listing")
        change(merged)
        until_equal("changes of every kind")
        assert cli("checkpoint", "-m", "changed").code == 0
        shutil.rmtree(merged / "src")
        (merged / "src").write_text("a file now\n")
        until_equal("a directory that became a file")
        kill_daemon(cli)
        (merged / "unseen").write_text("while no daemon ran\n")
        until_equal("what nobody saw")
        assert cli("rollback").code == 0
        until_equal("a rollback")
        assert cli("rollback", "base").code == 0
        until_equal("the stack alone")
        assert (copy / "src" / "doomed").read_text() == "delete me\n"


def change(merged: Path) -> None:
    deep = merged / "deep" / "er"
    deep.mkdir(parents=True)
    (deep / "new").write_text("new\n")
    (deep / "link").symlink_to("new")
    os.rename(merged / "deep", merged / "moved")
    (merged / "src" / "kept").write_text("written to\n")
    (merged / "src" / "doomed").unlink()
    (merged / os.fsdecode(b"caf\xe9\n")).write_text("any bytes\n")


def test_watch_tells_what_happens_across_history_and_a_killed_daemon(
    cli: Cli, merged: Path
) -> None:
    with running(cli, sys.executable, "-m", "envstack", "watch", "src") as watching:
        assert line(watching).startswith(f"{cli.cwd.name} on base at ")
        (merged / "elsewhere").touch()
        (merged / "src" / "doomed").unlink()
        assert line(watching) == "D src/doomed"
        assert cli("rollback", "base").code == 0
        assert re.match("checkpoint [0-9a-f]{8} saved", line(watching))
        assert [line(watching) for _ in range(4)] == [
            "rollback to base begins",
            "the merged tree is swapped",
            "A src/doomed",
            "rollback to base is done",
        ]
        kill_daemon(cli)
        (merged / "src" / "kept").write_text("while no daemon ran\n")
        assert line(watching).startswith(f"{cli.cwd.name} on base at ")
        assert line(watching) == "M src/kept"
        interrupt(watching)
        assert watching.wait(WITHIN) == 130


def test_a_loop_of_the_shell_misses_nothing(cli: Cli, merged: Path) -> None:
    cursor = cli("sync").out.strip()
    seen: list[str] = []
    for new in ("new0", "new1", "new2"):
        (merged / new).touch()
        while new not in seen:  # a file that was seen while it was made may be told twice
            told = cli("watch", "--once", "--json", "--since", cursor).document
            seen.extend(row["path"] for row in told["changes"])
            cursor = told["cursor"]
    assert list(dict.fromkeys(seen)) == ["new0", "new1", "new2"]


def test_a_cursor_of_before_a_purge_is_refused(cli: Cli) -> None:
    cursor = cli("sync").out.strip()
    assert cli("down", "--purge", "--yes").code == 0
    assert cli("up").code == 0
    done = cli("watch", "--since", cursor, "--json")
    assert (done.code, done.error["kind"]) == (2, "usage")


def test_an_environment_that_is_not_up_has_no_feed(cli: Cli) -> None:
    assert cli("down").code == 0
    for command in ("watch", "sync"):
        done = cli(command, "--json")
        assert (done.code, done.error["kind"]) == (4, "not-up")


def test_the_end_of_the_environment_ends_the_feed(cli: Cli, merged: Path) -> None:
    with running(
        cli, sys.executable, "-m", "envstack", "watch", "--json", stderr=subprocess.PIPE
    ) as watching:
        assert json.loads(line(watching))["event"] == "ready"
        assert cli("down", "--purge", "--yes").code == 0
        _out, err = watching.communicate(timeout=WITHIN)
    assert (watching.returncode, json.loads(err)["error"]["kind"]) == (4, "not-up")


def test_a_daemon_that_is_stopped_is_not_started_again(cli: Cli) -> None:
    with running(
        cli, sys.executable, "-m", "envstack", "watch", stderr=subprocess.PIPE
    ) as watching:
        line(watching)
        assert cli("daemon", "stop").code == 0
        _out, err = watching.communicate(timeout=WITHIN)
    assert (watching.returncode, b"the daemon was stopped" in err) == (7, True)
    assert cli("daemon", "status").code == 4


def test_a_command_runs_for_what_changed(cli: Cli, merged: Path) -> None:
    cursor = cli("sync").out.strip()
    code = 'cd "$ENVSTACK_MOUNT" && xargs cat'
    command = ("--since", cursor, "--ignore", "*.o", "--for", "sh", "-c", code)
    with running(cli, sys.executable, "-m", "envstack", "watch", *command) as watching:
        (merged / "a.o").write_text("ignored\n")
        (merged / "b").write_text("b\n")
        assert line(watching) == "b"


def test_a_barrier_stands_behind_what_was_changed(cli: Cli, merged: Path) -> None:
    with watch(cli.cwd) as events:
        assert isinstance(next(events), Ready)
        (merged / "new").touch()
        barrier = sync(cli.cwd)
        told = [next(events)]
        while told[-1].seq < barrier.seq:
            told.append(next(events))
    assert told[-1] == barrier
    rows = [row for event in told if isinstance(event, Changes) for row in event.changes]
    assert {row.path for row in rows} == {b"new"}


def test_a_killed_daemon_stops_no_event_loop(cli: Cli, merged: Path) -> None:
    async def work() -> list[Event]:
        async with awatch(cli.cwd, ignore=["*.o"]) as events:
            told = [await anext(events)]
            await anyio.to_thread.run_sync(kill_daemon, cli)
            (merged / "a.o").touch()
            (merged / "new").touch()
            told += [await anext(events), await anext(events)]
        return told

    first, again, changes = anyio.run(work)
    assert first == again
    assert isinstance(changes, Changes)
    assert [change.path for change in changes.changes] == [b"new"]
