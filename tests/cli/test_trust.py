"""Commands of a stack file: shown and asked about, passed on as they speak, never run unawares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from envstack.errors import CommandFailed, Untrusted
from envstack.model import Terms
from tests.cli.harness import brought

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.harness import Cli, FakeCall, FakeDaemon

COMMANDS = (("deps", "pip install -r requirements.txt\necho \x1b[2Jdone\n"), ("two", "make"))
ENV = {"LD_PRELOAD": "/evil\x1b.so"}
TERMS = Terms(b"/p/envstack.yaml", COMMANDS, ENV, "abcd")
UNTRUSTED = Untrusted("/p runs commands", "read them", TERMS)


def asks(call: FakeCall) -> Any:
    """Answer as the daemon does while nobody has said yes."""
    params = call.request.params
    return brought() if params["trust"] or params.get("consent") == "abcd" else UNTRUSTED


def test_at_a_terminal_the_commands_are_shown_and_asked_about(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.up"] = asks
    with cli.on_terminal("up") as terminal:
        shown = terminal.read_until("[y/N]")
        assert "deps" in shown
        assert "    pip install -r requirements.txt\r\n    echo \\e[2Jdone\r\n" in shown
        assert "    LD_PRELOAD=/evil\\e.so\r\n" in shown
        terminal.type("y\n")
        assert terminal.finish().code == 0
    assert [params.get("consent") for _, params in daemon.calls if "consent" in params] == ["abcd"]


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"])
def test_nothing_runs_without_a_yes(cli: Cli, daemon: FakeDaemon, answer: str) -> None:
    daemon.answers["env.up"] = asks
    with cli.on_terminal("up") as terminal:
        terminal.read_until("[y/N]")
        terminal.type(answer)
        done = terminal.finish()
    assert done.code == 4
    assert done.out.count("pip install") == 1, "what was shown before the question is not repeated"
    assert done.out.endswith(" read them\n")
    assert daemon.methods.count("env.up") == 1


def test_without_a_terminal_it_is_refused_and_the_commands_are_told(
    cli: Cli, daemon: FakeDaemon
) -> None:
    daemon.answers["env.up"] = asks
    done = cli("up")
    assert done.code == 4
    assert "hint: read them" in done.err
    assert done.err.index("pip install") < done.err.index("hint: read them")
    error = cli("up", "--json").error
    assert error["kind"] == "untrusted"
    assert error["commands"][1] == {"layer": "two", "run": "make"}
    assert error["env"] == ENV
    assert cli("up", "--trust").code == 0


def test_what_a_command_prints_comes_out_above_the_progress_line(
    cli: Cli, daemon: FakeDaemon
) -> None:
    def slow(call: FakeCall) -> Any:
        call.progress("layer 2 of 2: deps")
        call.output("Collecting ")
        call.output("left-pad\nInstalling\n")
        return brought()

    daemon.answers["env.up"] = slow
    done = cli("up")
    assert "Collecting left-pad\nInstalling\n" in done.err
    assert done.out.startswith("web is up")
    assert cli("up", "--json").document["name"] == "web"


def test_a_failure_shows_the_last_lines_to_a_script(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.up"] = CommandFailed("layer failed", "mend it", "one\ntwo")
    assert cli("up", "--json").error["output"] == "one\ntwo"
    done = cli("up")
    assert (done.code, "layer failed" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "rebuild"),
    [
        ((), None),
        (("--rebuild",), ""),
        (("--rebuild", "deps"), "deps"),
        (("--rebuild=deps",), "deps"),
        (("--rebuild", "--json"), ""),
    ],
)
def test_a_rebuild_names_a_layer_or_none(
    cli: Cli, daemon: FakeDaemon, arguments: tuple[str, ...], rebuild: str | None
) -> None:
    assert cli("up", *arguments).code == 0
    assert daemon.calls[-1][1]["rebuild"] == rebuild


def test_up_hands_over_the_variables_of_the_shell(cli: Cli, daemon: FakeDaemon) -> None:
    cli.environ["MINE"] = "of mine\nand \udcff"
    assert cli("up").code == 0
    assert daemon.calls[-1][1]["environ"]["MINE"] == "of mine\nand \udcff"


def test_up_tells_what_is_outdated_and_what_was_saved(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.up"] = brought(outdated=["deps"], saved="0123456789abcdef")
    lines = cli("up").out.splitlines()
    assert "envstack up --rebuild deps" in lines[1]
    assert "envstack rollback 01234567" in lines[2]


def test_a_rebuild_tells_the_way_back(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.up"] = brought(left="0123456789abcdef")
    assert "envstack rollback 01234567" in cli("up", "--rebuild").out


def test_trust_names_what_may_run_from_now_on(cli: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    rows = [{"layer": layer, "run": command} for layer, command in COMMANDS]
    answer = {"stack": "/p/envstack.yaml", "digest": "abcd", "commands": rows, "env": ENV}
    daemon.answers["trust.add"] = answer
    out = cli("trust").out
    assert out.splitlines()[0] == "/p/envstack.yaml may run:"
    assert "    make\n" in out
    assert "    LD_PRELOAD=" in out
    assert cli("trust", "--json").document == answer
    daemon.answers["trust.add"] = {**answer, "commands": []}
    assert cli("trust").out == "/p/envstack.yaml runs no commands\n"


def test_what_would_be_fetched_is_shown_and_asked_about(cli: Cli, daemon: FakeDaemon) -> None:
    addresses = (("tools", "https://files.example/tools\x1b.tar"),)
    terms = Terms(b"/p/envstack.yaml", (), ENV, "abcd", addresses)
    untrusted = Untrusted("/p fetches archives", "read them", terms)
    daemon.answers["env.up"] = untrusted
    with cli.on_terminal("up") as terminal:
        shown = terminal.read_until("[y/N]")
        assert "/p/envstack.yaml fetches these archives:" in shown
        assert "tools" in shown
        assert "https://files.example/tools\\e.tar" in shown
        assert "LD_PRELOAD" not in shown, "nothing runs with it"
        assert "Fetch them, now and whenever they are needed?" in shown
        terminal.type("n\n")
        done = terminal.finish()
    assert (done.code, done.out.count("files.example")) == (4, 1)
    assert cli("up", "--json").error["addresses"] == [
        {"layer": "tools", "address": "https://files.example/tools\x1b.tar"}
    ]
    both = Terms(b"/p/envstack.yaml", COMMANDS, ENV, "abcd", addresses)
    daemon.answers["env.up"] = Untrusted("/p runs commands", "read them", both)
    with cli.on_terminal("up") as terminal:
        shown = terminal.read_until("[y/N]")
        assert "runs these commands and fetches these archives:" in shown
        assert "Run and fetch them, now" in shown
        terminal.type("n\n")
        terminal.finish()


def test_what_is_trusted_is_listed_and_revoked(cli: Cli, daemon: FakeDaemon) -> None:
    row = {"stack": "/p/envstack.yaml", "digest": "abcd", "at": "2026-11-24T15:00:00.000000Z"}
    daemon.answers["trust.list"] = [row]
    daemon.answers["trust.revoke"] = {"revoked": 2}
    assert cli("trust", "--list").out.splitlines()[1].split() == [
        *("2026-11-24", "15:00", "abcd", "/p/envstack.yaml")
    ]
    assert cli("trust", "--list", "--json").document == [row]
    assert cli("trust", "--revoke", "/gone/envstack.yaml").code == 0
    assert daemon.calls[-1][1]["stack"] == "/gone/envstack.yaml"
    assert cli("trust", "--list", "--revoke").code == 2
    daemon.answers["trust.list"] = []
    assert cli("trust", "--list").out == "nothing is trusted\n"
