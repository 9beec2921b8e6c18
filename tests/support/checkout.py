"""Clones of this repository, for tests that use it as real input."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support import needs

REPOSITORY = Path(__file__).resolve().parents[2]


def clone(place: Path) -> None:
    """Clone this repository to `place`, with the files there that git does not know yet."""
    git = needs.program("git")
    _run(git, "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(place))
    listed = _run(git, "-C", str(REPOSITORY), "ls-files", "-z", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, place / name)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
