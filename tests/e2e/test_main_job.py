"""The main job on real input: this repository as a stack, tested, broken for real, rolled back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import checkout, trees
from tests.support.checkout import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

STACK = Path("stacks/repository")

pytestmark = pytest.mark.kernel


@pytest.fixture
def clone(project: Path, home: Path) -> Iterator[Path]:
    """A clone of this repository, with what is not committed yet; down again afterwards."""
    place = project / "clone"
    checkout.clone(place)
    yield place
    _envstack(place, "down", "--purge", "--yes")
    _envstack(place, "daemon", "stop")


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _envstack(clone: Path, *words: str) -> str:
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import envstack.__main__"
    return _run(sys.executable, "-c", code, "-C", str(clone / STACK), *words)


def _tests_pass(tree: Path) -> bool:
    """Run a quick part of the tests that lie in `tree`, on the code that lies there."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/stackfile"],
        cwd=tree,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0 and bool(re.search(r"\d+ passed", done.stdout))


def test_this_repository_is_broken_for_real_and_rolled_back(clone: Path) -> None:
    below = trees.snapshot(clone)
    merged = clone / STACK / ".envstack" / "merged"
    _envstack(clone, "up")
    assert _tests_pass(merged)
    _envstack(clone, "checkpoint", "-m", "before")
    before = trees.snapshot(merged)

    first = _run("git", "rev-list", "--max-parents=0", "HEAD", cwd=merged).split()[-1]
    _run("git", "checkout", "--quiet", "--force", first, cwd=merged)
    _run("sed", "-i", "s/fault/default/g", "envstack/stackfile/source.py", cwd=merged)
    (merged / "envstack/stackfile/tree.py").unlink()
    _run("rm", "-rf", ".git", cwd=merged)
    assert not _tests_pass(merged)

    _envstack(clone, "rollback")
    assert trees.snapshot(merged) == before
    assert _tests_pass(merged)

    _envstack(clone, "down")
    shutil.rmtree(clone / STACK / ".envstack")
    assert trees.snapshot(clone) == below
