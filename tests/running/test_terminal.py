"""`run` and `shell` on a terminal, under a shell with job control: as if there were no envstack."""

from __future__ import annotations

import shlex
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from tests.running.harness import PROGRAM, screen
from tests.support import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.running.harness import Environment, Screen

pytestmark = pytest.mark.kernel

PROMPT = "told you $ "
ECHO = "import sys\nfor line in sys.stdin: print('heard', line.strip(), flush=True)"
SIZE = """
import os, signal
def show(*_): print("size", *os.get_terminal_size(0), flush=True)
signal.signal(signal.SIGWINCH, show)
show()
signal.signal(signal.SIGINT, signal.SIG_DFL)
while True: signal.pause()
"""
CATCHES = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("set", flush=True)
signal.sigwait([signal.SIGINT])
print("mine", flush=True)
"""


@pytest.fixture
def user(web: Environment) -> Iterator[Screen]:
    """A user's interactive shell in the project."""
    bash = needs.program("bash")
    cli = web.at(web.project, PS1=PROMPT, HISTFILE="", INPUTRC="/dev/null")
    with screen(cli, bash, "--norc", "--noprofile", "-i") as shown:
        shown.see(PROMPT)
        yield shown


@pytest.mark.parametrize("how", ["", "--no-network"], ids=["as it is", "supervised"])
def test_job_control_goes_through(user: Screen, how: str) -> None:
    user.type(f"{PROGRAM} run {how} {sys.executable} -u -c {shlex.quote(ECHO)}\n")
    user.type("one\n")
    user.see("heard one")
    user.type("\x1a")
    user.see("Stopped")
    user.see(PROMPT)
    user.type("fg\n")
    user.type("two\n")
    user.see("heard two")
    user.type("\x1a")
    user.see("Stopped")
    user.see(PROMPT)
    user.type("kill -TERM %1; fg; echo code $?\n")
    user.see("code 143\r\n")
    user.see(PROMPT)


@pytest.mark.parametrize("how", ["", "--no-network"], ids=["as it is", "supervised"])
def test_ctrl_c_and_the_size_of_the_window_are_the_commands(user: Screen, how: str) -> None:
    user.type(f"{PROGRAM} run {how} {sys.executable} -c {shlex.quote(SIZE)}\n")
    user.see("size 80 24")
    user.resize(30, 100)
    user.see("size 100 30")
    user.type("\x03")
    user.see(PROMPT)
    user.type("echo code $?\n")
    user.see("code 130\r\n")
    user.see(PROMPT)
    user.type(f"{PROGRAM} run {how} {sys.executable} -c {shlex.quote(CATCHES)}; echo code $?\n")
    user.see("set\r\n")
    user.type("\x03")
    user.see("mine")
    user.see("code 0\r\n")
    user.see(PROMPT)


def test_ctrl_c_amid_checkpoints_is_for_the_command(user: Screen) -> None:
    user.type(f"{PROGRAM} run --checkpoint sh -c 'echo begun; exec sleep 1000'\n")
    user.see("begun\r\n")
    script = "trap 'echo caught; exit 5' INT; echo here; while :; do sleep 0.01; done"
    user.type("\x03")
    user.see("sh ended with 130; to go back: envstack rollback")
    user.see(PROMPT)
    user.type("echo code $?\n")
    user.see("code 130\r\n")
    user.type(f"{PROGRAM} run --checkpoint sh -c {shlex.quote(script)}; echo code $?\n")
    user.see("here\r\n")
    user.type("\x03")
    user.see("caught")
    user.see("to go back: envstack rollback")
    user.see("code 5\r\n")
    user.see(PROMPT)


RC = {
    "bash": (".bashrc", "PS1='mine$ '; PROMPT_COMMAND='true'; alias known='echo is known'"),
    "zsh": (".zshrc", "PROMPT='mine%# '; alias known='echo is known'"),
    "fish": (
        ".config/fish/config.fish",
        "function fish_prompt; echo -n 'mine> '; end; alias known 'echo is known'",
    ),
}


@pytest.mark.parametrize("name", sorted(RC))
def test_the_prompt_tells_where_one_is_and_is_else_the_users_own(
    web: Environment, directory: Callable[[], Path], name: str
) -> None:
    shell = needs.program(name)
    home = directory()
    file, content = RC[name]
    (home / file).parent.mkdir(parents=True, exist_ok=True)
    (home / file).write_text(f"export HOME={home}\n{content}\n" if name != "fish" else content)
    cli = web.at(web.project, SHELL=shell)
    web_home = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "ZDOTDIR": str(home)}
    with screen(web.at(cli.cwd, SHELL=shell, **web_home), *PROGRAM.split(), "shell") as shown:
        shown.see("(web) ")
        shown.see("mine")
        shown.type("known; pwd\n")
        shown.see("is known")
        shown.see(f"{web.merged}")
        shown.see("(web) ")
        shown.see("mine")
        shown.type("exit\n")
    assert (home / file).read_text().endswith(f"{content}\n" if name != "fish" else content)


def test_any_other_shell_has_it_in_ps1(web: Environment) -> None:
    shell = shutil.which("dash") or "/bin/sh"
    with screen(web.at(web.merged / "sub", SHELL=shell), *PROGRAM.split(), "shell") as shown:
        shown.see("(web) # ")
        shown.type("echo in ${PWD##*/}; exit 3\n")
        shown.see("in sub")


def test_a_name_is_no_code_in_a_prompt(web: Environment) -> None:
    """It comes from a file of the project."""
    for shell, marked in (
        ("bash", "($(touch x)`touch x`%d\\u) "),
        ("zsh", "($(touch x)`touch x`%d\\u) "),
    ):
        path = needs.program(shell)
        cli = web.at(web.project, SHELL=path, ZDOTDIR="/nowhere", HOME="/nowhere")
        with screen(cli, *PROGRAM.split(), "shell") as shown:
            shown.see("(web) ")
            shown.type("export ENVSTACK_ENV='$(touch x)`touch x`%d\\u'\n")
            if shell == "zsh":
                shown.type("setopt prompt_subst; PROMPT='> '\n")
            shown.type("true\n")
            shown.see("($(touch x)`touch x`")
            shown.type("exit\n")
        assert not (web.merged / "x").exists(), marked
