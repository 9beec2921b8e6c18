"""A Debian as a stack: packages are installed into the merged tree, and rolled back again."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.running.harness import bring_up, take_down
from tests.support import needs, trees
from tests.support.debian import Root

if TYPE_CHECKING:
    from pathlib import Path

    from tests.running.harness import Environment

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

WITHIN = 600.0
"""Seconds: packages come from a mirror."""


def run(environment: Environment, *words: str) -> str:
    """Run a command, and return what it and envstack say."""
    with environment.cli.start(
        "run", *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as client:
        said = client.communicate(timeout=WITHIN)[0].decode()
    assert client.returncode == 0, said
    return said


def test_apt_works_in_a_root_file_system(project: Path, home: Path) -> None:
    needs.program("bwrap")
    debian = Root(project / "base")
    environment = bring_up(project, home, layers=[{"name": "base", "dir": "base"}])
    environment.cli.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run(environment, "apt-get", "-q", "update")
    install = ("apt-get", "install", "-q", "-y", "--no-install-recommends", "hello", "dbus")
    run(environment, "--checkpoint", "--", *install)
    assert "A usr/bin/hello" in environment.cli("diff", "@~1", "@").out.splitlines()
    assert environment.cli("run", "hello").out == "Hello, world!\n"
    assert environment.cli("run", "dpkg", "--audit").out == ""
    assert environment.cli("rollback", "@~1").code == 0
    assert environment.cli("run", "hello").code == 127
    take_down(environment)
    trees.remove(debian.place)
