"""The stacks of the README with real packages: installed, broken by a real upgrade, rolled back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import needs, trees

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture(params=["python", "node"])
def stack(request: pytest.FixtureRequest, project: Path, home: Path) -> Iterator[Path]:
    """A copy of the stack; down again afterwards."""
    place = project / request.param
    shutil.copytree(REPOSITORY / "stacks" / request.param, place, ignore=_private)
    yield place
    _envstack(place, "down", "--purge", "--yes")
    _envstack(place, "daemon", "stop")


def _private(_directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name == ".envstack"]


APP = {"python": [".venv/bin/python", "app.py"], "node": ["node", "app.js"]}
UPGRADE = {
    "python": [".venv/bin/pip", "install", "--quiet", "--upgrade", "werkzeug"],
    "node": ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "chalk@latest"],
}


def _envstack(place: Path, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "envstack", "-C", place, *words, "--json"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _run(command: list[str], tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


def test_it_is_installed_once_broken_by_an_upgrade_and_works_again(stack: Path) -> None:
    app, upgrade = APP[stack.name], UPGRADE[stack.name]
    needs.program({"python": "python3", "node": "npm"}[stack.name])
    below = trees.snapshot(stack / "project")
    merged = Path(_envstack(stack, "up", "--trust")["mount"])
    assert _run(app, merged).stdout == "it works\n"
    installed = trees.snapshot(merged)
    made = _envstack(stack, "checkpoint", "-m", "it works")["id"]

    upgraded = _run(upgrade, merged)
    assert upgraded.returncode == 0, upgraded.stderr
    broken = _run(app, merged)
    assert broken.returncode != 0
    assert broken.stdout == ""

    assert _envstack(stack, "rollback")["to"] == made
    assert _run(app, merged).stdout == "it works\n"
    _envstack(stack, "down")
    layers = _envstack(stack, "up")["layers"]
    assert [layer["kind"] for layer in layers] == ["dir", "run"]
    _envstack(stack, "rollback", "base")
    assert _without_caches(trees.snapshot(merged)) == _without_caches(installed)
    assert trees.snapshot(stack / "project") == below


def _without_caches(tree: trees.Tree) -> set[bytes]:
    return {path for path in tree if b"__pycache__" not in path}
