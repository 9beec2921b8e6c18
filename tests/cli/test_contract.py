"""What scripts rely on: exit codes, one JSON document, one error object, nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from envstack.errors import Damaged, Held, NotFound, NotUp, StackFileError, UsageError
from envstack.model import Hold, Holder, HoldKind
from tests.cli.harness import IN_ASCII, WITHIN, interrupt, logged, status

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.harness import Cli, FakeCall, FakeDaemon

ASKING = [
    ("up",),
    ("down",),
    ("down", "--purge", "--yes"),
    ("status",),
    ("ls",),
    ("checkpoint", "-m", "message", "--tag", "v1"),
    ("rollback",),
    ("rollback", "@~1", "--dry-run"),
    ("log",),
    ("diff",),
    ("diff", "base", "@"),
    ("diff", "--name-only"),
    ("status", "--short"),
    ("sync",),
    ("daemon", "start"),
    ("daemon", "status"),
]
"""Commands that ask the daemon."""

ALONE = [("init",), ("validate",), ("daemon", "stop"), ("daemon", "logs"), ("--version",)]
"""Commands that can do without."""

NEEDS_DAEMON = [
    ("down",),
    ("status",),
    ("ls",),
    ("checkpoint",),
    ("rollback",),
    ("log",),
    ("watch",),
    ("sync",),
]


def words(arguments: tuple[str, ...]) -> str:
    return " ".join(arguments)


@pytest.mark.parametrize("arguments", [*ASKING, ("validate",), ("--version",)], ids=words)
@pytest.mark.parametrize("place", ["before", "after"])
def test_json_is_one_document(
    cli: Cli, daemon: FakeDaemon, arguments: tuple[str, ...], place: str
) -> None:
    given = ("--json", *arguments) if place == "before" else (*arguments, "--json")
    done = cli(*given)
    assert done.code == 0
    assert done.out.endswith("\n")
    assert isinstance(done.document, dict | list)


@pytest.mark.parametrize("arguments", ASKING, ids=words)
def test_what_the_daemon_answers_is_printed_as_it_is(
    cli: Cli, daemon: FakeDaemon, arguments: tuple[str, ...]
) -> None:
    document = cli(*arguments, "--json").document
    method = [name for name in daemon.methods if name != "hello"][-1]
    assert document == daemon.answers[method]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("no checkpoint is called 'x'", "envstack log"), 3),
        (NotUp("it is not up", "envstack up"), 4),
        (Damaged("a layer is gone"), 6),
    ],
)
def test_an_error_of_the_daemon_keeps_its_kind_and_code(
    cli: Cli, daemon: FakeDaemon, error: Any, code: int
) -> None:
    daemon.answers["env.log"] = error
    done = cli("log", "--json")
    assert done.code == code
    assert done.error == {"kind": error.kind, "message": error.message, "hint": error.hint}


def test_an_error_for_people_is_a_line_and_a_hint(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.log"] = NotUp("it is not up", "envstack up")
    done = cli("log")
    assert (done.code, done.out) == (4, "")
    assert done.err == "error: it is not up\nhint: envstack up\n"


def test_holders_come_with_the_error_in_both_forms(cli: Cli, daemon: FakeDaemon) -> None:
    hold = Hold(HoldKind.CWD, b"/p/m/\xff\x1b[2J")
    held = Held("cannot checkpoint", "leave", (Holder(7, "sh\x07", "ann", (hold,)),))
    daemon.answers["env.checkpoint"] = held
    rows = cli("checkpoint", "--json").error["holders"]
    assert rows[0]["pid"] == 7
    lines = cli("checkpoint").err.splitlines()
    assert lines[2].split() == ["PID", "COMMAND", "USER", "HOLDS", "PATH"]
    assert lines[3].split() == ["7", "sh\\x07", "ann", "cwd", '"/p/m/\\xff\\e[2J"']


def test_faults_of_a_stack_file_are_printed_as_they_come(cli: Cli, daemon: FakeDaemon) -> None:
    report = "envstack.yaml:1:2: no\n    x\n     ^"
    daemon.answers["env.up"] = StackFileError(report, "", ({"line": 1},))
    assert cli("up").err == report + "\n"
    assert cli("up", "--json").error["faults"] == [{"line": 1}]


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("--no-such-option",),
        ("log", "--no-such-option"),
        ("log", "surplus"),
        ("checkpoint", "-m"),
        ("checkpoint", "--mode", "no-such-mode"),
        ("rollback", "--mode", "no-such-mode"),
        ("daemon",),
        ("daemon", "no-such-command"),
        ("daemon", "run", "--ready-fd", "no-number"),
        ("run",),
        ("watch", "--for"),
        ("watch", "--for", "--"),
        ("watch", "--settle", "1"),
        ("watch", "--null"),
        ("watch", "--settle", "soon", "--for", "true"),
        ("watch", "--settle", "9" * 20, "--for", "true"),
        ("watch", "--settle", "9" * 5000, "--for", "true"),
        ("sync", "surplus"),
    ],
    ids=words,
)
def test_wrong_usage_is_exit_code_2(cli: Cli, stack: Path, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    # Before the options that are wrong, where it cannot be mistaken for their value.
    done = cli("--json", *arguments)
    assert (done.code, done.error["kind"]) == (2, "usage")


@pytest.mark.parametrize(
    "arguments",
    [("log", "--bad", "--json"), ("bad", "--json"), ("-C", "/no/where", "log", "--json")],
)
def test_json_counts_although_the_arguments_before_it_are_wrong(
    cli: Cli, arguments: tuple[str, ...]
) -> None:
    assert cli(*arguments).error["message"]


def test_a_message_may_look_like_an_option(cli: Cli, daemon: FakeDaemon) -> None:
    done = cli("checkpoint", "-m", "--json")
    assert done.out.startswith("checkpoint ")
    assert daemon.calls[-1][1]["message"] == "--json"


def test_without_a_command_the_help_is_shown_as_for_wrong_usage(cli: Cli) -> None:
    done = cli()
    assert (done.code, done.out) == (2, "")
    assert "envstack init" in done.err
    assert cli("--json").error["kind"] == "usage"


@pytest.mark.parametrize("arguments", NEEDS_DAEMON, ids=words)
def test_without_a_daemon_nothing_is_up(
    cli: Cli, stack: Path, home: Path, arguments: tuple[str, ...]
) -> None:
    done = cli(*arguments, "--json")
    assert (done.code, done.error["kind"]) == (4, "not-up")
    assert not home.exists(), "it started a daemon"


def test_daemon_status_without_a_daemon_is_exit_code_4(cli: Cli) -> None:
    assert cli("daemon", "status").code == 4


def test_to_stop_a_daemon_that_does_not_run_is_no_error(cli: Cli) -> None:
    done = cli("daemon", "stop")
    assert (done.code, done.out) == (0, "no daemon runs\n")
    assert cli("daemon", "stop", "--json").document == {"pid": None}


def test_an_environment_that_is_down_is_shown_and_is_exit_code_4(
    cli: Cli, daemon: FakeDaemon
) -> None:
    daemon.answers["env.status"] = status(state="down")
    done = cli("status", "--json")
    assert done.code == 4
    assert '"state":"down"' in done.out
    assert '"kind": "not-up"' in done.err


def test_an_environment_that_is_degraded_is_shown_with_the_reason(
    cli: Cli, daemon: FakeDaemon
) -> None:
    daemon.answers["env.status"] = status(state="degraded", reason="a layer is gone")
    done = cli("status")
    assert done.code == 4
    assert "degraded" in done.out
    assert "a layer is gone" in done.out


@pytest.mark.parametrize("arguments", [("up",), ("status",), ("diff",), ("validate",)], ids=words)
def test_without_a_stack_file_it_is_exit_code_3(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments, "--json")
    assert (done.code, done.error["kind"]) == (3, "not-found")
    assert "envstack init" in done.error["hint"]


def test_a_stack_file_that_is_named_must_exist(cli: Cli, home: Path) -> None:
    assert cli("up", "other.yaml").code == 3
    assert not home.exists(), "it started a daemon"


def test_a_directory_to_start_in_must_exist(cli: Cli) -> None:
    assert cli("-C", "no-such", "status").code == 3


@pytest.mark.parametrize(
    "arguments", [*ASKING, ("watch",), ("daemon", "stop"), ("daemon", "logs")], ids=words
)
def test_what_needs_root_says_so(cli: Cli, stack: Path, arguments: tuple[str, ...]) -> None:
    done = cli.python("os.geteuid = lambda: 1000", *arguments, "--json")
    assert (done.code, done.error["kind"]) == (5, "unsupported")
    assert "root" in done.error["message"]


@pytest.mark.parametrize("arguments", [("init",), ("validate",)], ids=words)
def test_the_stack_file_needs_no_root(cli: Cli, project: Path, arguments: tuple[str, ...]) -> None:
    if arguments == ("validate",):
        assert cli("init").code == 0
    assert cli.python("os.geteuid = lambda: 1000", *arguments).code == 0


def test_on_another_system_it_is_one_sentence(cli: Cli) -> None:
    done = cli.python("sys.platform = 'plan9'", "init")
    assert (done.code, done.out, done.err.count("\n")) == (5, "", 1)


def test_a_bug_is_one_line_and_no_traceback(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.log"] = [{"no": "log"}]
    done = cli("log")
    assert done.code == 1
    assert done.err.startswith("error: internal error: KeyError")
    assert "(this is a bug)" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_bug_shows_its_traceback_when_asked_to(
    cli: Cli, daemon: FakeDaemon, form: tuple[str, ...]
) -> None:
    cli.environ["ENVSTACK_LOG"] = "debug"
    daemon.answers["env.status"] = {"no": "status"}
    done = cli("status", *form)
    assert done.code == 1
    assert "Traceback" in done.err


def test_ctrl_c_cancels_the_request(cli: Cli, daemon: FakeDaemon) -> None:
    def cancelled(call: FakeCall) -> UsageError:
        call.wait_for_cancel()
        return UsageError("cancelled in time")

    daemon.answers["env.checkpoint"] = cancelled
    with cli.start("checkpoint", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        daemon.wait_for("env.checkpoint")
        interrupt(run)
        _out, err = run.communicate(timeout=WITHIN)
    assert b"cancelled in time" in err


def test_ctrl_c_is_exit_code_130(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.checkpoint"] = lambda call: call.wait_for_cancel() or {}
    with cli.start("checkpoint", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        daemon.wait_for("env.checkpoint")
        interrupt(run)
        out, err = run.communicate(timeout=WITHIN)
    assert (run.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert b"done before it could be cancelled\nhint: envstack status\n" in err


def test_a_reader_that_leaves_is_no_error(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.log"] = [logged(number) for number in range(5000)]
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as closed:
        run = cli.start("log", stdout=closed, stderr=subprocess.PIPE)
    _out, err = run.communicate(timeout=WITHIN)
    assert (run.returncode, err) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("arguments", [("log",), ("--help",), ("log", "--help")], ids=words)
def test_a_full_disk_is_told(cli: Cli, daemon: FakeDaemon, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        run = cli.start(*arguments, stdout=full, stderr=subprocess.PIPE)
        _out, err = run.communicate(timeout=WITHIN)
    assert run.returncode == 1
    assert err == b"error: standard output cannot be written: No space left on device\n"


def test_with_standard_output_closed_nothing_goes_to_the_daemon(
    cli: Cli, daemon: FakeDaemon
) -> None:
    closing = ("sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "envstack")
    done = cli("log", command=closing)
    assert (done.code, done.err) == (0, "")
    assert daemon.methods == ["hello", "env.log"]


@pytest.mark.parametrize(
    "arguments", [("status",), ("checkpoint", "-m", "x"), ("diff", "base"), ("sync",)]
)
def test_a_quick_command_imports_nothing_slow(
    cli: Cli, daemon: FakeDaemon, arguments: tuple[str, ...]
) -> None:
    prelude = (
        "import atexit\n"
        "slow = ('pydantic', 'rich', 'anyio', 'asyncio', 'watchfiles', 'yaml')\n"
        "atexit.register(lambda: print([name for name in slow if name in sys.modules]))"
    )
    done = cli.python(prelude, *arguments)
    assert done.code == 0
    assert done.out.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    sorted({command[:1] for command in [*ASKING, *ALONE, ("watch",)] if command[0][0] != "-"}),
)
def test_help_teaches(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments, "--help")
    assert done.code == 0
    assert done.out.startswith("Usage: envstack")
    assert "Examples:" in done.out or arguments == ("daemon",)
    assert "\x1b" not in done.out


def test_the_help_can_be_read_in_any_encoding(cli: Cli) -> None:
    cli.environ |= IN_ASCII
    assert cli("ls", "--help").code == 0


def test_the_help_names_every_exit_code(cli: Cli) -> None:
    codes = " ".join(cli("--help").out.partition("Exit codes:")[2].split())
    for code in ("0 done", "4 not", "6 damaged", "7 no talking to the daemon", "130 cancelled"):
        assert code in codes


def test_the_help_shows_what_to_type_first(cli: Cli) -> None:
    done = cli("--help")
    firsts = [line.split()[1] for line in done.out.splitlines() if line.startswith("    envstack ")]
    assert firsts == ["init", "up", "checkpoint", "diff", "rollback"]
    assert "..." not in done.out.partition("Commands:")[2], "a summary is cut off"
