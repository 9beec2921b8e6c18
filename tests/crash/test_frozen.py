"""The daemon is killed while those stand still whom `run` started: they go on."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from envstack.environment.groups import family_of
from envstack.environment.steps import Step
from envstack.linux import cgroup
from tests.crash.daemon import KILL, Order
from tests.support import waiting

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.crashbox import Crashbox

pytestmark = pytest.mark.kernel

COUNTER = """
import itertools, sys, time
open(sys.argv[1], "w").write("0")
with open("count", "w") as file:
    for number in itertools.count():
        print(number, file=file, flush=True)
        time.sleep(0.001)
"""


def test_they_go_on_within_a_second(crashbox: Crashbox) -> None:
    crashbox.up()
    row = crashbox.ask("enter")
    count = crashbox.merged / "count"
    with subprocess.Popen(
        [sys.executable, "-c", COUNTER, row["group"]],
        cwd=crashbox.merged,
        env={**os.environ, **row["env"]},
    ) as counter:
        try:
            waiting.until(lambda: count.exists() and size(count) > 0, "a command that runs")
            order = Order(KILL, Step.CATCH_UP)
            assert not crashbox.kill_at(order, lambda: crashbox.checkpoint(mode="live"))
            before = size(count)
            waiting.until(lambda: size(count) > before, "a command that goes on", within=1.0)
            assert crashbox.checkpoint(mode="live")["mode"] == "live"
        finally:
            counter.kill()
    crashbox.down()
    assert list(cgroup.find(family_of(os.fsencode(crashbox.home)))) == []


def size(path: Path) -> int:
    return path.stat().st_size
