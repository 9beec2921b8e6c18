"""What the README says of running commands, as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import MODULE, Cli
from tests.running.harness import Environment, take_down
from tests.support import needs

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]


def example() -> str:
    """Return the commands of the section."""
    section = (ROOT / "README.md").read_text().partition("## Running commands\n")[2]
    commands: str = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[0]
    return commands


def test_the_commands_of_the_readme(directory: Callable[[], Path], home: Path) -> None:
    needs.program("bwrap")
    project = directory() / "hello"
    shutil.copytree(ROOT / "stacks/hello", project)
    environment = Environment(Cli(project, {"ENVSTACK_HOME": str(home)}))
    assert environment.cli("up").code == 0
    calls = f'envstack() {{ {" ".join(MODULE)} "$@"; }}\n'
    done = environment.cli("-ec", calls + example(), command=("sh",))
    assert done.code == 0, done.err
    assert done.out.startswith(f"{environment.merged}\nin hello at {environment.merged}\n")
    assert "M greeting.txt" in done.err
    assert "sh ended with 9; to go back: envstack rollback " in done.err
    assert (environment.merged / "greeting.txt").read_text() == "Hello\n"
    assert (environment.merged / "docs").is_dir()
    take_down(environment)
