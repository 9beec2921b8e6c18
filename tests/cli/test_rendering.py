"""What people read: lists, colours on a terminal, plain lines everywhere else."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

import pytest

from envstack.cli.text import width
from envstack.errors import Damaged, NotFound, NotUp
from tests.cli.harness import (
    IN_ASCII,
    MODULE,
    Done,
    brought,
    checkpoint,
    drifted,
    holder,
    interrupt,
    listed,
    logged,
    status,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.harness import Cli, FakeCall, FakeDaemon

LONG = "d/" + "x" * 250 + "/" + "y" * 250


def change(path: bytes, change: str = "added", kind: str = "file") -> dict[str, str]:
    shown = {"path": path.decode(errors="replace"), "change": change, "kind": kind}
    exact = base64.b64encode(path).decode()
    return shown if shown["path"].encode() == path else {**shown, "path_b64": exact}


def test_diff_has_a_letter_a_path_and_a_sum(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.diff"] = [
        change(b"a"),
        change(b"b", "modified"),
        change(b"c", "deleted", "dir"),
        change(b"d", "added", "symlink"),
    ]
    assert cli("diff").out.splitlines() == [
        "A a",
        "M b",
        "D c/",
        "A d",
        "2 added, 1 modified, 1 deleted",
    ]


def test_diff_of_nothing_says_so(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.diff"] = []
    assert cli("diff").out == "no changes\n"


def test_hostile_names_harm_no_terminal_and_are_one_line_each(cli: Cli, daemon: FakeDaemon) -> None:
    names = [b"a\nb", b"\x1b]0;title\x07", b"\xff", "\u202e".encode(), "\x9b2J".encode()]
    daemon.answers["env.diff"] = [change(name) for name in names]
    lines = cli("diff").out.splitlines()
    assert len(lines) == len(names) + 1
    assert all(line.isprintable() for line in lines)
    assert lines[2] == 'A "\\xff"'


def test_a_long_path_is_never_wrapped(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.diff"] = [change(LONG.encode())]
    daemon.answers["env.list"] = [listed(mount=f"/{LONG}")]
    daemon.answers["env.status"] = status(mount=f"/{LONG}")
    for command in ("diff", "ls", "status"):
        assert any(line.endswith(LONG) for line in cli(command).out.splitlines())


def test_log_is_one_line_a_checkpoint(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.log"] = [
        logged(3, parent=checkpoint(1)["id"], changes=None, sealed=False),
        logged(2, parent=checkpoint(1)["id"], head=True, tag="v1", message="two\nlines"),
        logged(1, changes={"added": 0, "modified": 0, "deleted": 7}),
    ]
    third, second, first = (re.split(r"  +", line) for line in cli("log").out.splitlines())
    assert third[1:] == [
        "00000003",
        "2026-01-02 03:04",
        third[3],
        "…",
        "number 3 [on 00000001] [not sealed yet]",
    ]
    assert second == ["*", "00000002", second[2], second[3], "+3 ~1 -2", "(v1) two …"]
    assert first[4:] == ["-7", "number 1"]
    assert first[3].endswith(" ago")


def test_log_says_which_checkpoints_are_damaged(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.log"] = [logged(2, parent=checkpoint(1)["id"], damaged=True), logged(1)]
    second, first = cli("log").out.splitlines()[:2]
    assert second.endswith("number 2 [damaged]")
    assert first.endswith("number 1")


def test_log_marks_the_stack_alone_when_that_is_the_head(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.log"] = [logged(1)]
    assert re.split(r"  +", cli("log").out.splitlines()[-1]) == ["*", "base", "the stack alone"]


def test_log_of_nothing_says_so(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.log"] = []
    assert cli("log").out.startswith("no checkpoints")


def test_status_shows_where_it_stands_and_who_is_inside(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.status"] = status(
        head=checkpoint(1, tag="v1"), holders=[holder(), holder(pid=None, holds=[])]
    )
    done = cli("status")
    assert done.out.splitlines()[0] == "web  up"
    facts = dict(line.split(maxsplit=1) for line in done.out.splitlines()[1:6])
    assert facts == {
        "mount": "/p/.envstack/merged",
        "stack": "/p/envstack.yaml",
        "layers": "base",
        "head": "00000001 (v1) number 1",
        "changes": "all sealed",
    }
    assert "    4711  vim      ann   cwd    /p/merged/src" in done.out


@pytest.mark.parametrize(
    ("state", "line"), [("up", "may not be sealed (envstack diff)"), ("down", "may not be sealed")]
)
def test_status_says_whether_changes_may_be_unsealed(
    cli: Cli, daemon: FakeDaemon, state: str, line: str
) -> None:
    daemon.answers["env.status"] = status(state=state, dirty=True)
    assert f"  changes  {line}" in cli("status").out.splitlines()


def test_a_title_is_cut_to_the_width_of_a_terminal_and_nowhere_else(
    cli: Cli, daemon: FakeDaemon
) -> None:
    long = "x漢" * 100
    made = checkpoint(message=long, tag="t" * 20)
    daemon.answers["env.log"] = [
        logged(2, message=long, parent="0" * 16, damaged=True),
        logged(1, message=long, tag="t" * 20, head=True),
    ]
    daemon.answers["env.status"] = status(head=made)
    daemon.answers["env.checkpoint"] = {**daemon.answers["env.checkpoint"], **made}
    wide = ("sh", "-c", 'stty cols 90 && exec "$@"', "sh", *MODULE)
    cli.environ["NO_COLOR"] = "1"
    for command in (("log",), ("log", "--graph"), ("status",), ("checkpoint",)):
        with cli.on_terminal(*command, command=wide) as terminal:
            lines = terminal.finish().out.splitlines()
        cut = [line for line in lines if "x漢x漢x" in line]
        assert cut
        assert all("…" in line and 88 <= width(line) <= 90 for line in cut)
        assert long in cli(*command).out
    with cli.on_terminal("log", command=wide) as terminal:
        assert "… [damaged] [on 00000000]" in terminal.finish().out
    with cli.on_terminal("checkpoint", command=wide) as terminal:
        assert terminal.finish().out.splitlines()[0].endswith("…  0.6 ms")


@pytest.mark.parametrize("command", ["up", "status", "checkpoint", "rollback"])
def test_a_layer_that_changed_below_is_one_line_with_what_to_do(
    cli: Cli, daemon: FakeDaemon, command: str
) -> None:
    method = f"env.{command}"
    daemon.answers[method] = {**daemon.answers[method], "drift": [drifted()]}
    lines = cli(command).out.splitlines()
    assert "layer base changed below the mount: src/a, b (envstack up --relay)" in lines


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            drifted(reason="replaced", paths=[]),
            "layer base is another directory by now (envstack up --relay)",
        ),
        (drifted(reason="gone", paths=[]), "layer base is gone (put it back)"),
        (
            drifted(name="\x1b[2J", paths=[{"path": "a\nb"}]),
            'layer \\e[2J changed below the mount: "a\\nb" (envstack up --relay)',
        ),
    ],
)
def test_why_a_layer_is_not_what_was_mounted_is_said(
    cli: Cli, daemon: FakeDaemon, row: dict[str, Any], line: str
) -> None:
    daemon.answers["env.status"] = status(drift=[row])
    assert cli("status").out.splitlines()[-1] == line


def test_status_looks_below_when_asked_and_says_that_nothing_changed(
    cli: Cli, daemon: FakeDaemon
) -> None:
    daemon.answers["env.status"] = status(drift=[])
    assert cli("status", "--drift").out.splitlines()[-1] == "nothing changed below the mount"
    assert daemon.calls[-1][1]["drift"] is True
    assert "changed" not in cli("status").out
    assert daemon.calls[-1][1]["drift"] is False


def test_relay_says_what_it_kept_and_who_still_has_what_was(cli: Cli, daemon: FakeDaemon) -> None:
    relaid = {"mode": "swap", "stranded": [holder()]}
    saved = checkpoint(9)["id"]
    daemon.answers["env.up"] = {**brought(drift=[], saved=saved), "relaid": relaid}
    lines = cli("up", "--relay", "--force").out.splitlines()
    assert lines[1].startswith("what was not sealed is kept as 00000009")
    assert lines[2] == "its layers are laid anew"
    assert lines[3].startswith("left behind")
    assert (daemon.calls[-1][1]["relay"], daemon.calls[-1][1]["force"]) == (True, True)

    relaid = {"mode": "refresh", "stranded": []}
    daemon.answers["env.up"] = {**brought(drift=[], holders=[holder()]), "relaid": relaid}
    lines = cli("up", "--relay").out.splitlines()
    assert lines[2] == "what these have open stays as it was; relay again when it is closed:"
    assert lines[4].split()[:2] == ["4711", "vim"]


def test_force_without_relay_is_wrong_usage(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("up", "--force").code == 2
    assert "env.up" not in daemon.methods


def test_ls_is_a_table(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.list"] = [
        listed(),
        listed(name="x\x1b[2J", state="degraded", size=None),
        listed(size=5 << 30, size_exact=False, stack_exists=False),
    ]
    lines = cli("ls").out.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "HEAD", "SIZE", "MOUNT"]
    assert re.split("  +", lines[1]) == ["web", "up", "base", "4.0 KiB", "/p/.envstack/merged"]
    assert lines[2].startswith("x\\e[2J  degraded  base  …")
    assert "≥5.0 GiB" in lines[3]
    assert lines[4:] == [
        "the stack file of web is gone (put it back, or: envstack down /p/envstack.yaml)"
    ]
    daemon.answers["env.list"] = []
    assert cli("ls").out.splitlines()[0] == "no environments"


def test_ls_names_the_way_that_loses_nothing_first(cli: Cli, daemon: FakeDaemon) -> None:
    gone = {"stack_exists": False, "project_exists": False}
    daemon.answers["env.list"] = [listed(**gone), listed(**gone, state="down")]
    told = "the project of web was moved or deleted (move it back, or: "
    assert cli("ls").out.splitlines()[3:] == [
        f"{told}envstack down /p/envstack.yaml)",
        f"{told}delete its history: envstack down --purge /p/envstack.yaml)",
    ]


def test_what_to_do_about_a_degraded_environment_is_what_the_daemon_says(
    cli: Cli, daemon: FakeDaemon
) -> None:
    daemon.answers["env.status"] = status(state="degraded", reason="moved", hint="move it back")
    done = cli("status")
    assert done.code == 4
    assert "move it back" in done.err
    assert "envstack up" not in done.err


@pytest.mark.parametrize(
    ("head", "dirty", "shown"),
    [
        (None, False, "web@base"),
        (checkpoint(7), True, "web@00000007 +"),
        (checkpoint(7, tag="v1"), False, "web@v1"),
    ],
)
def test_a_short_status_is_one_line_for_a_prompt(
    cli: Cli, daemon: FakeDaemon, head: Any, dirty: bool, shown: str
) -> None:
    daemon.answers["env.glance"] = status(head=head, dirty=dirty)
    assert cli("status", "--short").out == f"{shown}\n"
    assert "env.status" not in daemon.methods, "it would look for who is inside"


@pytest.mark.parametrize("state", ["down", "degraded"])
def test_a_short_status_of_what_is_not_up_is_silence(
    cli: Cli, daemon: FakeDaemon, state: str
) -> None:
    daemon.answers["env.glance"] = status(state=state)
    assert cli("status", "--short") == Done(4, "", "")
    assert cli("status", "--short", "--json").code == 4


def test_a_short_status_of_what_the_daemon_does_not_know_is_silence(
    cli: Cli, daemon: FakeDaemon
) -> None:
    daemon.answers["env.glance"] = NotUp("nothing was ever brought up from it", "envstack up")
    assert cli("status", "--short") == Done(4, "", "")
    daemon.answers["env.glance"] = Damaged("a layer is gone")
    assert cli("status", "--short").err.startswith("error: a layer is gone")


def test_a_short_status_without_daemon_or_stack_file_is_silence(cli: Cli, project: Path) -> None:
    assert cli("status", "--short") == Done(3, "", "")
    (project / "envstack.yaml").touch()
    assert cli("status", "--short") == Done(4, "", "")


def test_checkpoint_names_its_id_and_those_it_left_behind(cli: Cli, daemon: FakeDaemon) -> None:
    made = {**checkpoint(5), "duration_ms": 0.61, "stranded": [holder()]}
    daemon.answers["env.checkpoint"] = {**daemon.answers["env.checkpoint"], **made}
    done = cli("checkpoint", "--force", "--mode", "rotate", "-m", b"caf\xe9")
    assert done.out.splitlines()[0] == "checkpoint 00000005 number 5  0.6 ms"
    assert done.out.index("4711") < done.out.index('a shell comes over with: cd "$PWD"')
    asked = daemon.calls[-1][1]
    assert (asked["force"], asked["mode"], asked["tag"]) == (True, "rotate", None)
    assert asked["message"] == "caf\ufffd", "what is stored is text"


def test_a_first_up_and_a_checkpoint_of_nothing_say_what_they_mean(
    cli: Cli, daemon: FakeDaemon
) -> None:
    assert "next: " in cli("up").out
    daemon.answers["env.up"] = brought(head=checkpoint(1))
    assert cli("up").out == "web is up at /p/.envstack/merged\n"
    nothing = {"added": 0, "modified": 0, "deleted": 0}
    made = checkpoint(5, changes=nothing)
    daemon.answers["env.checkpoint"] = {**daemon.answers["env.checkpoint"], **made}
    assert "nothing had changed: its tree is that of" in cli("checkpoint").out


def test_a_live_checkpoint_says_why_and_what_was_not_of_one_moment(
    cli: Cli, daemon: FakeDaemon
) -> None:
    made = {**checkpoint(5), "mode": "live", "reason": "sh (pid 1) has cwd '/p'"}
    unstable = [f"log{number}" for number in range(12)]
    daemon.answers["env.checkpoint"] = {**daemon.answers["env.checkpoint"], **made}
    assert "live: sh (pid 1) has cwd '/p'" in cli("checkpoint").out
    daemon.answers["env.checkpoint"]["unstable"] = unstable
    told = cli("checkpoint").out.splitlines()
    assert "changed while it was copied, and is not of one moment:" in told
    assert [line for line in told if line.startswith("  log")] == [
        f"  log{number}" for number in range(10)
    ]
    assert "  and 2 more" in told


def test_rollback_says_what_it_kept_and_a_dry_run_what_it_would_change(
    cli: Cli, daemon: FakeDaemon
) -> None:
    saved = checkpoint(9)["id"]
    daemon.answers["env.rollback"] = {**daemon.answers["env.rollback"], "saved": saved}
    done = cli("rollback", "v1", "--discard")
    assert done.out.startswith("rolled back to base")
    assert "envstack rollback 00000009" in done.out
    asked = daemon.calls[-1][1]
    assert (asked["rev"], asked["discard"], asked["dry_run"]) == ("v1", True, False)
    paths = {"paths": [change(b"gone", "deleted")]}
    daemon.answers["env.rollback"] = {**daemon.answers["env.rollback"], **paths}
    assert cli("rollback", "--dry-run").out == "D gone\n1 deleted\nswap: nobody is inside\n"
    assert daemon.calls[-1][1]["dry_run"] is True


def test_diff_asks_from_the_head_to_the_merged_tree_unless_told(
    cli: Cli, daemon: FakeDaemon
) -> None:
    for arguments, a, b in ((), None, None), (("v1",), "v1", None), (("v1", "@"), "v1", "@"):
        cli("diff", *arguments)
        asked = daemon.calls[-1][1]
        assert (asked["a"], asked["b"]) == (a, b)


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_a_terminal_gets_colours_unless_it_says_no(
    cli: Cli, daemon: FakeDaemon, environ: dict[str, str], coloured: bool
) -> None:
    cli.environ |= environ
    with cli.on_terminal("diff") as terminal:
        done = terminal.finish()
    assert ("\x1b[32mA a\x1b[0m" in done.out) == coloured
    assert ("\x1b" in done.out) == coloured


def test_whatever_is_no_terminal_gets_no_escapes(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.checkpoint"] = NotFound("no", "hint")
    for command in ("status", "ls", "log", "diff", "up", "checkpoint"):
        done = cli(command)
        assert "\x1b" not in done.out + done.err


def test_progress_is_shown_on_a_terminal_and_wiped_away(cli: Cli, daemon: FakeDaemon) -> None:
    def slow(call: FakeCall) -> Any:
        call.progress("layer 1 of 2\x07", 5, 10)
        return brought()

    daemon.answers["env.up"] = slow
    with cli.on_terminal("up") as terminal:
        done = terminal.finish()
    assert "\r\x1b[2Klayer 1 of 2\\x07 [##########..........] 5 of 10\r\x1b[2K" in done.out
    assert cli("up").err == "layer 1 of 2\\x07\n"
    assert cli("up", "--json").err == ""
    with cli.on_terminal("up", "--json") as terminal:
        assert "layer 1 of 2" not in terminal.finish().out


@pytest.mark.parametrize("keys", ["\x03", "\x04"])
def test_what_ends_a_question_stands_on_a_line_of_its_own(
    cli: Cli, daemon: FakeDaemon, keys: str
) -> None:
    cli.environ["NO_COLOR"] = "1"
    with cli.on_terminal("down", "--purge") as terminal:
        terminal.read_until("[y/N]")
        if keys == "\x03":  # no terminal of its process group sends it here
            interrupt(terminal.process)
        else:
            terminal.type(keys)
        assert "[y/N] \nerror: " in terminal.finish().out


def test_columns_are_in_line_where_the_encoding_has_no_such_character(
    cli: Cli, daemon: FakeDaemon
) -> None:
    daemon.answers["env.list"] = [listed(), listed(name="grün", size=None)]
    cli.environ |= IN_ASCII
    header, *rows = cli("ls").out.splitlines()
    assert [row.index("/p/") for row in rows] == [header.index("MOUNT")] * 2
    assert rows[1].startswith("gr\\xfcn  up")


def test_ctrl_c_on_a_terminal_leaves_a_clean_line(cli: Cli, daemon: FakeDaemon) -> None:
    def slow(call: FakeCall) -> Any:
        call.progress("copying")
        call.wait_for_cancel()
        return NotFound("cancelled")

    daemon.answers["env.up"] = slow
    with cli.on_terminal("up") as terminal:
        terminal.read_until("copying")
        interrupt(terminal.process)
        done = terminal.finish()
    assert "copying\r\x1b[2K" in done.out
    assert done.out.endswith("cancelled\n")
    assert "Traceback" not in done.out


@pytest.mark.parametrize(("answer", "code", "purged"), [("y", 0, True), ("\n", 1, False)])
def test_a_purge_at_a_terminal_tells_what_would_be_lost_and_asks(
    cli: Cli, daemon: FakeDaemon, answer: str, code: int, purged: bool
) -> None:
    others = [listed(stack="/elsewhere"), listed(stack=str(cli.cwd / "envstack.yaml"), name="mine")]
    daemon.answers["env.list"] = others
    with cli.on_terminal("down", "--purge") as terminal:
        said = terminal.read_until("[y/N]")
        assert "mine\x1b[0m would be lost: 2 checkpoints, what is not sealed, 4.0 KiB" in said
        assert "elsewhere" not in said
        terminal.type(f"{answer}\n")
        assert terminal.finish().code == code
    assert ("env.down" in daemon.methods) == purged


def test_a_purge_does_not_ask_where_the_answer_is_given(cli: Cli, daemon: FakeDaemon) -> None:
    with cli.on_terminal("down", "--purge", "--yes") as terminal:
        assert terminal.finish().code == 0
    assert daemon.calls[-1][1]["purge"] is True


def test_an_environment_whose_project_is_gone_is_named_by_its_stack_file(
    cli: Cli, daemon: FakeDaemon
) -> None:
    assert cli("down", "--purge", "--yes", "/gone/project/envstack.yaml").code == 0
    assert daemon.calls[-1][1]["stack"] == "/gone/project/envstack.yaml"


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_purge_that_nobody_can_be_asked_about_is_refused(
    cli: Cli, daemon: FakeDaemon, form: tuple[str, ...]
) -> None:
    assert cli("down", "--purge", "--json").error["hint"] == "envstack down --purge --yes"
    assert cli("down", "--purge", *form).code == 4
    with cli.on_terminal("down", "--purge", "--json") as terminal:
        assert terminal.finish().code == 4
    assert daemon.methods == []
