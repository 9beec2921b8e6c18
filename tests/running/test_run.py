"""`run` in a plain tree: what a command finds, and that it is to the outside what it is."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import MODULE, WITHIN, read
from tests.running.harness import bring_up, groups, take_down
from tests.support import trees, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.running.harness import Environment

pytestmark = pytest.mark.kernel

WAYS = pytest.mark.parametrize("how", [(), ("--no-network",)], ids=["as it is", "supervised"])
"""The command takes the place of envstack, or is its child."""


def test_it_has_the_stacks_variables_over_the_users_own(web: Environment) -> None:
    told = web.at(web.project, OWN="mine", GREETING="not this")("run", "env").out.splitlines()
    assert {"OWN=mine", "GREETING=hello", "EDITOR=of the stack", "ENVSTACK_ENV=web"} <= set(told)
    assert f"ENVSTACK_MOUNT={web.merged}" in told
    assert f"PWD={web.merged}" in told


def test_it_runs_where_one_stands_if_that_is_inside_else_at_the_root_of_the_tree(
    web: Environment,
) -> None:
    assert web.cli("run", "pwd").out == f"{web.merged}\n"
    assert web.at(web.project / "sub")("run", "pwd").out == f"{web.merged}\n"
    assert web.at(web.merged / "sub")("run", "pwd").out == f"{web.merged}/sub\n"
    elsewhere = web.at(Path("/"))
    assert elsewhere("-C", str(web.merged / "sub"), "run", "pwd").out == f"{web.merged}/sub\n"


@WAYS
def test_the_exit_code_is_the_commands(web: Environment, how: tuple[str, ...]) -> None:
    codes = (
        (0, ("true",)),
        (3, ("sh", "-c", "exit 3")),
        (126, ("./envstack.yaml",)),
        (126, ("/",)),
        (127, ("no-such-command",)),
        (127, ("./no/such/path",)),
    )
    for code, command in codes:
        assert (code, web.cli("run", *how, "--", *command).code) == (code, code), command


@WAYS
def test_a_command_that_a_signal_ends_is_told_by_the_shell_as_ever(
    web: Environment, how: tuple[str, ...]
) -> None:
    words = " ".join([*MODULE, "run", *how, "sh", "-c", "'kill -KILL $$'"])
    told = web.cli("-c", f"{words}; echo $?", command=("sh",))
    assert told.out == "137\n"


@WAYS
def test_a_signal_for_envstack_reaches_the_command(web: Environment, how: tuple[str, ...]) -> None:
    script = "trap 'echo ended; exit 7' TERM; echo begun; while :; do sleep 0.01; done"
    with web.cli.start("run", *how, "sh", "-c", script, stdout=subprocess.PIPE) as client:
        assert read(client, 1) == ["begun"]
        client.send_signal(signal.SIGTERM)
        assert read(client, 1) == ["ended"]
        assert client.wait(WITHIN) == 7


@pytest.mark.parametrize("how", [(), ("--checkpoint",)], ids=["as it is", "supervised"])
def test_the_command_does_not_outlive_an_envstack_that_is_killed(
    web: Environment, how: tuple[str, ...]
) -> None:
    with web.cli.start(
        "run", *how, "sh", "-c", "echo $$; exec sleep 1000", stdout=subprocess.PIPE
    ) as client:
        pid = int(read(client, 1)[0])
        command = os.pidfd_open(pid)
        client.kill()
        waiting.exited(command, "the command")
        os.close(command)


@WAYS
def test_its_streams_carry_every_byte(web: Environment, how: tuple[str, ...]) -> None:
    content = os.urandom(300_000)
    done = subprocess.run(
        [*MODULE, "run", *how, "sh", "-c", "cat; echo aside >&2"],
        cwd=web.project,
        env=web.cli.env(),
        input=content,
        capture_output=True,
        timeout=WITHIN,
        check=True,
    )
    assert (done.stdout == content, done.stderr) == (True, b"aside\n")


def test_it_ends_at_a_closed_pipe_as_any_command_does(web: Environment) -> None:
    words = " ".join([*MODULE, "run", "sh", "-c", "'yes; echo $? >&2'"])
    assert web.cli("-c", f"{words} | head -1", command=("sh",)).err == "141\n"


def test_words_after_the_command_are_its_own(web: Environment) -> None:
    assert web.cli("run", "echo", "-n", "--json", "--", "x").out == "--json -- x"
    assert web.cli("run", "--", "sh", "-c", "echo $0 $1", "--help", "-m").out == "--help -m\n"


def test_wrong_usage_is_2_and_own_failures_are_125(
    web: Environment, directory: Callable[[], Path]
) -> None:
    for words in (
        ("run",),
        ("run", "--json", "true"),
        ("run", "-m", "x", "true"),
        ("shell", "--json"),
    ):
        assert web.cli(*words).code == 2, words
    assert web.cli("run", "--json", "true").error["kind"] == "usage"
    elsewhere = web.at(directory())("run", "true")
    assert (elsewhere.code, elsewhere.out) == (125, "")
    assert "no envstack.yaml" in elsewhere.err
    without = web.at(web.project, PATH=os.path.dirname(MODULE[0]))("run", "--no-network", "true")
    assert (without.code, "apt-get install bubblewrap" in without.err) == (125, True)


def test_a_stack_file_that_is_broken_by_now_counts_as_it_was_brought_up(web: Environment) -> None:
    stack = web.project / "envstack.yaml"
    written = stack.read_text()
    stack.write_text("layers: [")
    try:
        assert web.cli("run", "printenv", "GREETING").out == "hello\n"
    finally:
        stack.write_text(written)


def test_without_network_there_is_the_loopback_alone(web: Environment) -> None:
    lines = web.cli("run", "--no-network", "cat", "/proc/net/dev").out.splitlines()
    assert [line.split(":")[0].strip() for line in lines[2:]] == ["lo"]
    here = web.cli("run", "readlink", "/proc/self/ns/net").out.strip()
    assert here == os.readlink("/proc/self/ns/net")


@WAYS
def test_what_it_leaves_in_the_background_is_inside_and_named(
    web: Environment, how: tuple[str, ...]
) -> None:
    script = "setsid sleep 1000 >/dev/null 2>&1 & echo $!; cat /proc/self/cgroup"
    pid, *own = web.cli("run", *how, "sh", "-c", script).out.splitlines()
    try:
        assert Path(f"/proc/{pid}/cgroup").read_text().splitlines() == own
        assert any("/envstack-" in line for line in own)
        refused = web.cli("down", "--json")
        assert (refused.code, refused.error["kind"]) == (4, "held")
        assert int(pid) in [row["pid"] for row in refused.error["holders"]]
    finally:
        waiting.kill(int(pid), signal.SIGKILL, "the sleeper")
    held = groups(os.fsencode(web.cli.environ["ENVSTACK_HOME"]))
    assert len(held) == 1
    # A process that has ended is in its group until it is reaped.
    waiting.until(lambda: not Path(os.fsdecode(held[0]), "cgroup.procs").read_bytes(), "nobody")


def test_run_inside_run(web: Environment) -> None:
    look = ("sh", "-c", "pwd; cat /proc/self/cgroup")
    once = web.cli("run", *look).out
    assert web.at(web.merged)("run", *MODULE, "run", *look).out == once


def test_a_daemon_that_is_started_inside_is_in_no_group(
    web: Environment, directory: Callable[[], Path], home: Path
) -> None:
    """It would have itself stand still."""
    script = " ".join([f"ENVSTACK_HOME={home}", *MODULE, "daemon", "start", ">/dev/null"])
    told = web.cli("run", "sh", "-c", f"{script}; {script.replace('start >', 'status --json >')}")
    assert told.code == 0, told.err
    other = web.at(web.project, ENVSTACK_HOME=str(home))
    try:
        pid = other("daemon", "status", "--json").document["pid"]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (str(pid), *children):
            assert "/envstack-" not in Path(f"/proc/{process}/cgroup").read_text()
    finally:
        assert other("daemon", "stop").code == 0


def test_groups_go_when_they_are_empty(project: Path, home: Path) -> None:
    environment = bring_up(project, home)
    where = os.fsencode(home)
    assert groups(where) == []
    assert environment.cli("run", "true").code == 0
    assert len(groups(where)) == 1
    assert environment.cli("daemon", "stop").code == 0
    assert environment.cli("daemon", "start").code == 0
    assert groups(where) == []
    assert environment.cli("run", "true").code == 0
    assert environment.cli("down").code == 0
    assert groups(where) == []
    down = environment.cli("run", "true")
    assert (down.code, "envstack up" in down.err) == (125, True)
    take_down(environment)


@pytest.fixture
def shown(web: Environment) -> Iterator[Path]:
    """Two files that a command may change, as they are when it is over."""
    (web.merged / "kept").write_text("one\n")
    (web.merged / "doomed").write_text("two\n")
    yield web.merged
    assert web.cli("rollback", "base", "--discard").code == 0
    trees.remove(web.project / "kept") if (web.project / "kept").exists() else None


@pytest.mark.usefixtures("shown")
def test_checkpoint_seals_before_and_after_and_tells_what_changed(web: Environment) -> None:
    script = "echo more >> kept; rm doomed; touch new; echo out"
    done = web.cli("run", "--checkpoint", "-m", "upgrade", "--", "sh", "-c", script)
    assert (done.code, done.out) == (0, "out\n")
    for line in ("D doomed", "M kept", "A new", "1 added, 1 modified, 1 deleted"):
        assert line in done.err.splitlines()
    after, before = web.cli("log", "--json").document[:2]
    assert (after["message"], before["message"]) == ("upgrade", "before: upgrade")
    assert after["parent"] == before["id"]


@pytest.mark.usefixtures("shown")
def test_a_command_that_fails_between_checkpoints_tells_the_way_back(web: Environment) -> None:
    done = web.cli("run", "--checkpoint", "--", "sh", "-c", "rm kept; exit 9")
    assert done.code == 9
    last = done.err.splitlines()[-1]
    assert last.startswith("sh ended with 9; to go back: envstack rollback ")
    assert web.cli("log", "--json").document[0]["message"] == "sh -c 'rm kept; exit 9'"
    assert web.cli(*last.rpartition("envstack ")[2].split()).code == 0
    assert (web.merged / "kept").read_text() == "one\n"
