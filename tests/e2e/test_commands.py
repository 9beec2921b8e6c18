"""A command of a stack as a user meets it: seen while it runs, and ended whole by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 2_000_000 + os.getpid()
"""How long the command sleeps: as nobody else's does."""

pytestmark = pytest.mark.kernel


@pytest.fixture
def stack(project: Path, home: Path) -> Iterator[Path]:
    """A project whose command prints a line, and sleeps with a child that has left its session."""
    (project / "base").mkdir()
    command = f"setsid sleep {SECONDS} & echo begun; sleep {SECONDS}"
    layers = [{"name": "base", "dir": "base"}, {"name": "slow", "run": command}]
    (project / "envstack.yaml").write_text(json.dumps({"version": 1, "layers": layers}))
    yield project
    _start(project, "daemon", "stop").communicate()


def _start(project: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "envstack", "-C", project, *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _sleepers() -> int:
    found = 0
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += cmdline.read_bytes() == b"sleep\0%d\0" % SECONDS
        except OSError:
            continue  # it has ended since the listing
    return found


def test_ctrl_c_ends_it_with_its_children_and_leaves_nothing(stack: Path, home: Path) -> None:
    up = _start(stack, "up", "--trust")
    assert up.stderr is not None
    seen = [up.stderr.readline(), up.stderr.readline()]
    assert seen == ["layer 2 of 2: slow\n", "begun\n"]
    waiting.until(lambda: _sleepers() == 2, "the command", 20)
    up.send_signal(signal.SIGINT)
    assert up.wait(10) == 130
    assert _sleepers() == 0
    assert os.listdir(home / "staging") == []
    assert not (stack / ".envstack").exists()
    up.communicate()


def test_a_client_that_is_killed_ends_it_too(stack: Path, home: Path) -> None:
    up = _start(stack, "up", "--trust")
    assert up.stderr is not None
    waiting.until(lambda: _sleepers() == 2, "the command", 20)
    up.kill()
    up.communicate()
    waiting.until(lambda: _sleepers() == 0, "its end", 5)
    waiting.until(lambda: os.listdir(home / "staging") == [], "what it left to go", 5)
