"""`rollback`: says how it was done and why, and asks before it leaves anybody behind."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from envstack.errors import Held
from envstack.model import Hold, Holder, HoldKind
from envstack.rpc import shapes
from tests.cli.harness import checkpoint

if TYPE_CHECKING:
    from tests.cli.harness import Cli, FakeCall, FakeDaemon

SHELL = Holder(7, "bash", "ann", (Hold(HoldKind.CWD, b"/p/.envstack/merged/src"),))
WRITER = replace(SHELL, holds=(Hold(HoldKind.WRITING, b"/p/.envstack/merged/log"),))
HELD = Held("cannot roll back: bash (pid 7) has cwd", "leave the merged tree", (SHELL,))


def asks(call: FakeCall) -> Any:
    """Answer as the daemon does while somebody is inside."""
    return _answer(call) if call.request.params["force"] else HELD


def _answer(_call: FakeCall) -> Any:
    rolled = {"to": "base", "saved": None, "saved_meanwhile": None, "mode": "swap"}
    stranded = [shapes.holder(SHELL)]
    rest: dict[str, Any] = {
        "changes": None,
        "duration_ms": 0.5,
        "orphaned": [],
        "late": [],
        "drift": None,
    }
    return {**rolled, **rest, "reason": "asked for", "stranded": stranded}


def test_at_a_terminal_who_is_inside_is_shown_and_asked_about(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.rollback"] = asks
    with cli.on_terminal("rollback", "base", "--mode", "swap") as terminal:
        shown = terminal.read_until("[y/N]")
        assert "/p/.envstack/merged/src" in shown
        terminal.type("y\n")
        done = terminal.finish()
    assert done.code == 0
    assert "left behind" in done.out
    forced = [params["force"] for method, params in daemon.calls if method == "env.rollback"]
    assert forced == [False, True]


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"])
def test_nobody_is_left_behind_without_a_yes(cli: Cli, daemon: FakeDaemon, answer: str) -> None:
    daemon.answers["env.rollback"] = asks
    with cli.on_terminal("rollback", "base", "--mode", "swap") as terminal:
        terminal.read_until("[y/N]")
        terminal.type(answer)
        done = terminal.finish()
    assert done.code == 4
    assert done.out.count("/p/.envstack/merged/src") == 1, "who was shown is not shown again"
    assert daemon.methods.count("env.rollback") == 1


def test_nobody_is_asked_without_a_terminal_with_json_or_where_it_would_not_help(
    cli: Cli, daemon: FakeDaemon
) -> None:
    daemon.answers["env.rollback"] = asks
    assert cli("rollback", "--mode", "swap").code == 4
    error = cli("rollback", "--mode", "swap", "--json").error
    assert (error["kind"], error["holders"][0]["pid"]) == ("held", 7)
    for arguments, fault in (
        (("--mode", "swap", "--json"), HELD),
        (("--mode", "swap"), Held("cannot roll back", "close it", (WRITER,))),
        (("--mode", "swap"), Held("cannot roll back", "close it", (SHELL, WRITER))),
        ((), HELD),
    ):
        daemon.answers["env.rollback"] = fault
        with cli.on_terminal("rollback", *arguments) as terminal:
            done = terminal.finish()
        assert done.code == 4
        assert "[y/N]" not in done.out


def test_it_says_what_became_of_what_went_on_meanwhile(cli: Cli, daemon: FakeDaemon) -> None:
    answer = {
        **daemon.answers["env.rollback"],
        "mode": "in-place",
        "reason": "bash (pid 7) has cwd '/p/.envstack/merged/src\x1b'",
        "changes": {"added": 1, "modified": 0, "deleted": 0},
        "saved": checkpoint(8)["id"],
        "saved_meanwhile": checkpoint(9)["id"],
        "late": [{"path": "log\x1b"}],
        "orphaned": [shapes.holder(WRITER)],
    }
    daemon.answers["env.rollback"] = answer
    lines = cli("rollback", "v1").out.splitlines()
    assert lines[1] == r"in-place: bash (pid 7) has cwd '/p/.envstack/merged/src\e'"
    assert "envstack rollback 00000008" in lines[2]
    assert "envstack rollback 00000009" in lines[3]
    assert lines[4:6] == ["written all the time, and left as they are:", r'  "log\e"']
    assert lines[6] == "going on with files that the tree does not show any more:"
    assert lines[8].split() == ["7", "bash", "ann", "writing", "/p/.envstack/merged/log"]
    assert cli("rollback", "v1", "--json").document == answer
