"""The commands with the real daemon: what a user types, from the first to the last."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import IN_ASCII, WITHIN, interrupt
from tests.support import trees, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.harness import Cli


@pytest.fixture
def session(cli: Cli) -> Iterator[Cli]:
    """Commands in a project with two files; the daemon that they start ends with the test."""
    (cli.cwd / "kept").write_text("as it was\n")
    (cli.cwd / "doomed").write_text("delete me\n")
    yield cli
    cli("down", "--purge", "--yes")
    assert cli("daemon", "stop").code == 0


@pytest.mark.kernel
def test_a_session_from_init_to_purge(session: Cli, project: Path) -> None:
    merged = project / ".envstack" / "merged"
    assert session("init").code == 0
    assert session("init").code == 4
    assert session("validate").out == f"ok  {project.name}, 1 layer: project\n"
    assert session("up", "--json").document["mount"] == str(merged)
    assert session("up").code == 0, "up is idempotent"

    (merged / "new").write_text("new\n")
    (merged / "doomed").unlink()
    first = session("checkpoint", "-m", "first", "--tag", "v1", "--json").document
    (merged / "kept").write_text("spoilt\n")
    assert session("diff").out == "M kept\n1 modified\n"
    assert session("diff", "base", "v1").out == "D doomed\nA new\n1 added, 1 deleted\n"
    assert session("rollback", "--dry-run").out == "M kept\n1 modified\nswap: nobody is inside\n"

    assert re.match(rf"rolled back to {first['id'][:8]}  ", session("rollback").out)
    assert (merged / "kept").read_text() == "as it was\n"
    rows = session("log", "--json").document
    assert [(row["tag"], row["head"]) for row in rows] == [(None, False), ("v1", True)]
    assert session("rollback", "base").code == 0
    assert (merged / "doomed").exists()

    assert session("down").code == 0
    down = session("status", "--json")
    assert (down.code, '"state":"down"' in down.out) == (4, True)
    assert session("up").code == 0
    assert [row["state"] for row in session("ls", "--json").document] == ["up"]
    assert session("down", "--purge", "--yes").code == 0
    assert session("ls").out.splitlines()[0] == "no environments"
    assert (project / "doomed").read_text() == "delete me\n", "the project below stays as it was"


@pytest.mark.kernel
def test_a_shell_inside_is_named_and_left_behind_only_when_told(session: Cli) -> None:
    session("init")
    merged = session.cwd / ".envstack" / "merged"
    assert session("up").code == 0
    (merged / "new").touch()
    with subprocess.Popen(["sleep", "60"], cwd=merged) as shell:
        try:
            held = session("checkpoint", "--mode", "rotate", "--json")
            assert (held.code, held.error["kind"]) == (4, "held")
            assert held.error["holders"][0]["pid"] == shell.pid
            noticed = session("checkpoint").out
            assert "live" in noticed
            assert str(shell.pid) in noticed, "the reason names who is inside"
            assert str(shell.pid) in session("status").out
            told = session("checkpoint", "--mode", "rotate", "--force")
            assert (told.code, str(shell.pid) in told.out) == (0, True)
        finally:
            shell.kill()


@pytest.mark.kernel
def test_commands_inside_the_merged_tree_hold_nothing_themselves(session: Cli) -> None:
    session("init")
    assert session("up").code == 0
    project, session.cwd = session.cwd, session.cwd / ".envstack" / "merged"
    (session.cwd / "new").touch()
    assert session("checkpoint").code == 0
    assert session("rollback", "base").code == 0
    assert session("up", "--json").document["stack"] == str(project / "envstack.yaml")
    (session.cwd / "below").mkdir()
    session.cwd = session.cwd / "below"
    assert "means the environment around it" in session("init").out
    session.cwd = project


@pytest.mark.kernel
def test_paths_that_the_encoding_has_not_are_reached_all_the_same(session: Cli) -> None:
    session.cwd = project = session.cwd / "é"
    project.mkdir()
    session("init")
    stack = project / "envstack.yaml"
    stack.write_text(stack.read_text().replace("mount: .envstack/merged", "mount: ."))
    assert session("up").code == 0, "the daemon runs in another locale than what comes next"
    session.environ |= IN_ASCII
    for command in (("up",), ("validate",), ("status",), ("ls",), ("diff",), ("checkpoint",)):
        assert session(*command).code == 0


@pytest.mark.kernel
def test_a_session_over_the_project_itself(session: Cli, project: Path) -> None:
    """Every path stays as it is, and the project below too."""
    with subprocess.Popen(["sleep", "60"], cwd=project) as shell:
        try:
            _live_over_the_project(session, project, shell.pid)
        finally:
            shell.kill()


def _live_over_the_project(session: Cli, project: Path, shell: int) -> None:
    session("init")
    stack = project / "envstack.yaml"
    stack.write_text(stack.read_text().replace("mount: .envstack/merged", "mount: ."))
    before = trees.snapshot(project)
    told = session("up")
    assert (told.code, told.out.count(str(shell)), told.out.count('cd "$PWD"')) == (0, 1, 1)
    assert "stack file" not in told.out
    assert [row["pid"] for row in session("up", "--json").document["left_below"]] == [shell]
    (project / "src").mkdir()
    session.cwd = project / "src"
    (session.cwd / "new").write_text("new\n")
    (project / "doomed").unlink()
    stack.write_text("no stack file\n")
    assert session("diff").out.startswith("D doomed\nM envstack.yaml\nA src/\nA src/new\n")
    assert session("checkpoint", "-m", "first", "--tag", "v1").code == 0
    assert session("validate").code == 0, "the stack file that counts is below"
    assert "the stack file in the merged tree is not the one below" in session("up").out
    assert session("status", "--json").document["head"]["tag"] == "v1"
    (project / "kept").write_text("spoilt\n")
    assert session("rollback").code == 0
    assert (project / "kept").read_text() == "as it was\n"
    session.cwd = project
    assert session("rollback", "base").code == 0
    assert trees.snapshot(project) == before
    assert session("rollback", "v1").code == 0
    assert (project / "src" / "new").exists()
    assert session("down").code == 0
    assert trees.snapshot(project) == before


@pytest.mark.kernel
def test_a_purge_starts_the_daemon_if_need_be(session: Cli) -> None:
    session("init")
    assert session("up").code == 0
    assert session("down").code == 0
    assert session("daemon", "stop").code == 0
    assert session("down", "--purge", "--yes").code == 0


def test_the_daemon_by_hand(session: Cli, home: Path) -> None:
    assert session("daemon", "logs").code == 3
    started = session("daemon", "start", "--json").document
    assert session("daemon", "status", "--json").document["pid"] == started["pid"]
    assert session("daemon", "start", "--json").document["pid"] == started["pid"]
    assert session("daemon", "stop", "--json").document == {"pid": started["pid"]}
    assert session("daemon", "status").code == 4, "it has ended, not just begun to"
    lines = session("daemon", "logs", "--json").document["lines"]
    assert any("serves" in line for line in lines)
    assert "serves" in session("daemon", "logs").out


def test_the_daemon_in_the_foreground_ends_on_ctrl_c(session: Cli) -> None:
    with session.start("daemon", "run", stderr=subprocess.PIPE) as daemon:
        waiting.until(lambda: session("daemon", "status").code == 0, "a daemon", within=WITHIN)
        second = session("daemon", "run", "--json")
        assert (second.code, second.error["kind"]) == (4, "already-running")
        interrupt(daemon)
        _out, err = daemon.communicate(timeout=WITHIN)
    assert daemon.returncode == 0
    assert b"Traceback" not in err


def test_a_daemon_that_cannot_start_says_why(session: Cli) -> None:
    session.environ["ENVSTACK_LOG"] = "loud"
    done = session("daemon", "start", "--json")
    assert (done.code, done.error["kind"]) == (2, "usage")
    assert "ENVSTACK_LOG" in done.error["message"]
    del session.environ["ENVSTACK_LOG"]


def test_a_fault_in_the_stack_file_is_shown_with_its_place(session: Cli) -> None:
    (session.cwd / "envstack.yaml").write_text("version: 1\nlayers:\n  - {name: a, dri: .}\n")
    done = session("validate")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("envstack.yaml:3:")
    assert session("up").err == done.err
    assert session("validate", "--json").error["faults"] == session("up", "--json").error["faults"]


def test_the_console_script_is_the_module(session: Cli) -> None:
    script = "import sys; from envstack.cli import main; sys.argv[0] = 'envstack'; main()"
    done = session("--version", command=(sys.executable, "-c", script))
    assert done.out == session("--version").out
