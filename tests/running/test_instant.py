"""A checkpoint under what `run` started is one instant, and nobody notices."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import WITHIN, read
from tests.support import waiting
from tests.support.freezing import writer

if TYPE_CHECKING:
    from tests.running.harness import Environment

pytestmark = pytest.mark.kernel

PAIRS = 100
ROUNDS = 2

WRITER = writer(PAIRS)


def test_what_was_written_before_is_never_older(web: Environment) -> None:
    with web.cli.start("run", sys.executable, "-c", WRITER, stdout=subprocess.PIPE) as writer:
        try:
            assert read(writer, 1) == ["begun"]
            for _ in range(ROUNDS):
                made = web.cli("checkpoint", "--json").document
                assert made["mode"] == "live"
                assert writer.poll() is None
                pairs = contents(web, made["id"])
                assert len(pairs) == 2 * PAIRS
                _is_one_instant(pairs)
        finally:
            writer.send_signal(signal.SIGTERM)
            writer.wait(WITHIN)
    waiting.until(lambda: not web.state()["holders"], "nobody inside", WITHIN)
    assert web.cli("rollback", "base", "--discard").code == 0


def _is_one_instant(pairs: dict[tuple[str, int], int]) -> None:
    """The files in the order in which they are written never grow, and fall by one at most once."""
    values = [pairs[name, at] for at in range(PAIRS) for name in ("first", "second")]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] <= 1


def contents(web: Environment, revision: str) -> dict[tuple[str, int], int]:
    """Return what each file holds in a checkpoint, by its name and number."""
    patch = web.cli("diff", "--patch", "base", revision).out
    found = re.findall(r"^\+\+\+ b/(first|second)(\d+)\n@@.*\n\+(\d+)$", patch, re.MULTILINE)
    return {(name, int(number)): int(value) for name, number, value in found}
