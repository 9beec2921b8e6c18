"""The figures can be had: each is measured once at its smallest, and its table is looked at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.bench.figure import Figure, table
from tests.support import needs

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]


def _bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.kernel
@pytest.mark.parametrize(
    "name",
    [
        *("rotation", "status", "up-copy", "up-run", "tar", "memory"),
        *("live", "in-place", "pause", "holders"),
    ],
)
def test_a_figure_shows_medians_and_ratios(name: str) -> None:
    done = _bench("--quick", name)
    assert done.returncode == 0, done.stderr
    headline, _, _, title, _, reference, *rows = done.stdout.splitlines()
    assert headline.startswith("Linux ")
    assert title.startswith(f"{name}: ")
    assert reference.endswith("(1.00x)")
    measured = [row for row in rows if "missing" not in row]
    assert measured
    assert all(re.fullmatch(r"  .+ [\d,.]+ +\([\d,.]+x\)", row) for row in measured)


@pytest.mark.kernel
def test_a_figure_is_skipped_for_want_of_a_program(
    directory: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = directory()
    (programs / "findmnt").symlink_to(needs.program("findmnt"))
    monkeypatch.setenv("PATH", str(programs))
    done = _bench("--quick", "commit")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("skipped: this machine lacks podman, buildah, runc\n")


def test_an_unknown_figure_is_refused() -> None:
    done = _bench("nonesuch")
    assert done.returncode == 2
    assert "nonesuch" in done.stderr


def test_a_table_compares_within_a_column_and_bears_a_missing_row() -> None:
    figure = Figure("", lambda *_: {}, "files", {}, {})
    lines = list(table(figure, {1: {"one": 2.0, "two": 4.0}, 1000: {"one": 8.0}}))
    assert [line.split() for line in lines] == [
        ["ms", "1", "files", "1,000", "files"],
        ["one", "2.00", "(1.00x)", "8.00", "(1.00x)"],
        ["two", "4.00", "(2.00x)", "-"],
    ]
