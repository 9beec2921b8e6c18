"""Completion in the real bash, zsh and fish, from the script that the command prints."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING

import pytest

from envstack.errors import NotFound
from tests.cli.harness import MODULE, logged
from tests.support import needs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.harness import Cli, FakeDaemon

HISTORY = [
    logged(2, tag="v1", message="it works: at last", head=True),
    logged(1, message="before\nthe upgrade"),
]
IDS = ["0000000200000002"[:8], "0000000100000001"[:8]]


@pytest.fixture
def shell(cli: Cli, directory: Callable[[], Path]) -> Cli:
    """`cli` with an `envstack` on its PATH, and a home directory without settings."""
    place = directory()
    program = place / "envstack"
    python = shlex.join(["exec", *MODULE])
    program.write_text(f'#!/bin/sh\n{python} "$@"\n')
    program.chmod(0o755)
    path = cli.env()["PATH"]
    cli.environ |= {"PATH": f"{place}:{path}", "HOME": str(place), "LS_COLORS": ""}
    cli.environ |= dict.fromkeys(("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"), str(place))
    return cli


@pytest.fixture
def history(daemon: FakeDaemon) -> FakeDaemon:
    daemon.answers["env.log"] = HISTORY
    return daemon


def bash(shell: Cli, *words: str) -> list[str]:
    """Return what bash's completion function comes to for these words, the last one unfinished."""
    typed = shlex.join(["envstack", *words])
    code = (
        f'eval "$(envstack completion bash)"; COMP_WORDS=({typed}); COMP_CWORD={len(words)};'
        "_envstack envstack; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = shell(command=(needs.program("bash"), "--norc", "--noprofile", "-c", code))
    assert (done.code, done.err) == (0, "")
    return done.out.splitlines() if done.out.strip() else []


def fish(shell: Cli, typed: str) -> dict[str, str]:
    """Return what fish offers for this line, each with its description."""
    code = f"envstack completion fish | source; complete -C {shlex.quote(typed)}"
    done = shell(command=(needs.program("fish"), "--no-config", "-c", code))
    assert (done.code, done.err) == (0, "")
    rows = [line.partition("\t") for line in done.out.splitlines()]
    return {value: described for value, _, described in rows}


def zsh(shell: Cli, typed: str, until: str) -> str:
    """Return what an interactive zsh shows after these keys, as soon as `until` is there."""
    zsh = needs.program("zsh")
    with shell.on_terminal(command=(zsh, "-f", "-i")) as terminal:
        terminal.type("PS1='>''>' LISTMAX=1000; autoload -Uz compinit; compinit -u -D\n")
        terminal.type("stty cols 200; source <(envstack completion zsh); print rea''dy\n")
        terminal.read_until("ready\r\n")
        terminal.type(typed)
        said = terminal.read_until(until)
        terminal.process.kill()
    return said


def test_bash_completes_commands(shell: Cli) -> None:
    assert {"up", "rollback", "daemon", "doctor"} <= set(bash(shell, ""))
    assert bash(shell, "ro") == ["rollback"]
    assert bash(shell, "daemon", "st") == ["start", "stop", "status"]


def test_bash_completes_tags_and_ids_newest_first(shell: Cli, history: FakeDaemon) -> None:
    assert bash(shell, "rollback", "") == ["v1", IDS[0], IDS[1], "@", "base"]
    assert bash(shell, "rollback", IDS[1][:8]) == [IDS[1]]
    assert bash(shell, "rollback", "--dry-run", "v") == ["v1"]
    assert bash(shell, "diff", "base", "v") == ["v1"]
    assert bash(shell, "diff", "base", "@", "") == []


def test_more_digits_than_are_shown_are_completed_to_more(shell: Cli, history: FakeDaemon) -> None:
    assert bash(shell, "rollback", "0000000200") == ["0000000200"]


def test_bash_completes_options_and_their_values(shell: Cli) -> None:
    assert "--discard" in bash(shell, "rollback", "--d")
    assert bash(shell, "checkpoint", "--mode", "r") == ["rotate"]
    assert bash(shell, "checkpoint", "--mode", "=", "r") == ["rotate"], "as bash splits it"
    assert "--mode" not in bash(shell, "checkpoint", "--mode", "auto", "--")


def test_bash_completes_stack_files_and_directories(shell: Cli, stack: Path) -> None:
    (shell.cwd / "other.yml").touch()
    (shell.cwd / "readme.txt").touch()
    (shell.cwd / "sub dir").mkdir()
    bash_program = needs.program("bash")
    with shell.on_terminal(command=(bash_program, "--norc", "--noprofile", "-i")) as terminal:
        terminal.type("PS1='> '; eval \"$(envstack completion bash)\"; echo rea''dy\n")
        terminal.read_until("ready\r\n")
        terminal.type("envstack up env\t")
        terminal.read_until("envstack up envstack.yaml ")
        terminal.type("\x15envstack up sub\t")
        terminal.read_until("envstack up sub\\ dir/")
        terminal.type("\x15envstack validate \t\t")
        said = terminal.read_until("other.yml")
        assert "readme.txt" not in said
        terminal.process.kill()


def test_paths_follow_two_dashes(shell: Cli, stack: Path) -> None:
    assert "envstack.yaml" in fish(shell, "envstack diff base -- env")


def test_a_command_follows_the_option_that_takes_one(shell: Cli, stack: Path) -> None:
    assert "--once" in bash(shell, "watch", "--o")
    assert fish(shell, "envstack watch --for make --o") == {}
    assert "envstack.yaml" in fish(shell, "envstack watch --for cat env")


def test_fish_shows_messages_beside_tags_and_ids(shell: Cli, history: FakeDaemon) -> None:
    offered = fish(shell, "envstack rollback ")
    assert list(offered) == ["v1", IDS[0], IDS[1], "@", "base"]
    assert offered["v1"] == f"{IDS[0]} it works: at last"
    assert offered[IDS[1]] == "before …"


def test_fish_completes_commands_options_and_files(shell: Cli, stack: Path) -> None:
    assert fish(shell, "envstack rollb") == {
        "rollback": "Make the merged tree what it was at a checkpoint."
    }
    assert fish(shell, "envstack rollback --disc")["--discard"]
    assert fish(shell, "envstack checkpoint --mode=r") == {"--mode=rotate": ""}
    assert "envstack.yaml" in fish(shell, "envstack up env")


def test_zsh_completes_a_tag(shell: Cli, history: FakeDaemon) -> None:
    zsh(shell, "envstack rollback v\t", "rollback v1")


def test_zsh_shows_messages_beside_tags_and_ids(shell: Cli, history: FakeDaemon) -> None:
    said = zsh(shell, "envstack rollback \t", "the stack alone")
    assert f"-- {IDS[0]} it works: at last" in said
    assert "-- before …" in said


def test_zsh_completes_stack_files(shell: Cli, stack: Path) -> None:
    (shell.cwd / "envstack.txt").touch()
    zsh(shell, "envstack up env\t", "stack.yaml")


def test_layers_come_from_the_stack_file_without_a_daemon(shell: Cli, stack: Path) -> None:
    assert bash(shell, "up", "--rebuild", "") == ["base"]
    assert fish(shell, "envstack up --rebuild ") == {"base": "dir"}


def test_a_layers_name_stays_one_word_that_runs_nothing(shell: Cli, stack: Path) -> None:
    name = "two words; $(touch run)"
    stack.write_text(stack.read_text().replace("base", json.dumps(name), 1))
    (typed,) = bash(shell, "up", "--rebuild", "tw")
    assert shlex.split(typed) == [name]


def test_it_looks_where_c_points(shell: Cli, history: FakeDaemon, directory: object) -> None:
    project, shell.cwd = shell.cwd, shell.cwd.parent
    assert bash(shell, "-C", str(project), "rollback", "v") == ["v1"]
    target = {"stack": str(project / "envstack.yaml")}
    assert ("env.log", target) in history.calls


def test_without_a_daemon_none_is_started_and_nothing_said(
    shell: Cli, stack: Path, home: Path
) -> None:
    assert bash(shell, "rollback", "") == ["@", "base"]
    assert not home.exists()


def test_an_error_of_the_daemon_is_not_shown(shell: Cli, history: FakeDaemon) -> None:
    history.answers["env.log"] = NotFound("there is no such environment")
    shell.environ["_ENVSTACK_COMPLETE"] = "1"
    done = shell("rollback", "")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0].startswith("@")


def test_a_daemon_that_does_not_answer_is_not_waited_for(shell: Cli, history: FakeDaemon) -> None:
    history.answers["env.log"] = lambda call: call.lines.readline().decode()
    shell.environ["_ENVSTACK_COMPLETE"] = "1"
    shell("rollback", "")  # once, so that what it imports is in memory
    began = time.monotonic()
    done = shell("rollback", "")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0].startswith("@")
    assert time.monotonic() - began < 2.0, "0.2 s of waiting, and a start on a busy machine"


def test_another_shell_is_wrong_usage(cli: Cli) -> None:
    for arguments in (("completion",), ("completion", "tcsh")):
        done = cli(*arguments, "--json")
        assert (done.code, done.error["kind"]) == (2, "usage")
    assert cli("completion", "zsh", "--json").document["shell"] == "zsh"
