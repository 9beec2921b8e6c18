"""What the figures work on: many small files, a repository, an archive, C sources."""

from __future__ import annotations

import tarfile
import time
from typing import TYPE_CHECKING

from tests.bench import timing

if TYPE_CHECKING:
    from pathlib import Path

_FILES_A_DIRECTORY = 250
_FUNCTIONS_A_SOURCE = 60


def fill(top: Path, files: int) -> Path:
    """Make `files` small files below a fresh directory of `top`, and return that."""
    made = top / f"made-{time.monotonic_ns()}"
    place = made
    for number in range(files):
        if number % _FILES_A_DIRECTORY == 0:
            place = made / str(number)
            place.mkdir(parents=True)
        (place / str(number)).write_text("x")
    return made


def repository(top: Path, files: int) -> None:
    """Make `top` a git repository of `files` committed files."""
    fill(top, files)
    git = ["git", "-C", str(top), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        timing.output([*git, *words])


def archive(path: Path, files: int) -> None:
    """Make a tar archive of `files` small files at `path`."""
    with tarfile.open(path, "w") as tar:
        made = fill(path.parent, files)
        tar.add(made, made.name)


def sources(top: Path, files: int) -> None:
    """Make `files` C sources in the directory `top`, each worth a few tens of milliseconds."""
    top.mkdir()
    for number in range(files):
        functions = (
            f"int f{number}_{each}(int n) {{ int s = {each}; for (int i = 0; i < n; i++)"
            f" s = s * 31 + i % {each + 1}; return s; }}\n"
            for each in range(_FUNCTIONS_A_SOURCE)
        )
        (top / f"source{number}.c").write_text("#include <stdio.h>\n" + "".join(functions))
