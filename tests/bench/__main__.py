"""`python -m tests.bench [--quick] [NAME…]`: the figures, each against a reference of the same run.

Runs as root, in a mount namespace of its own, on the file system of the temporary directory, and
leaves nothing behind.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from envstack.linux import syscalls
from envstack.linux.mountinfo import read_mounts
from tests.bench import (
    again,
    changes,
    commit,
    feed,
    following,
    inside,
    live,
    memory,
    peers,
    rotation,
    status,
    work,
)
from tests.bench.figure import Figure, missing, table
from tests.support import trees

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FIGURES: Mapping[str, Figure] = {
    "rotation": rotation.FIGURE,
    "commit": commit.FIGURE,
    "live": live.LIVE,
    "in-place": live.IN_PLACE,
    "pause": live.PAUSE,
    "holders": inside.FIGURE,
    "diff": changes.FIGURE,
    "status": status.FIGURE,
    "up-copy": again.COPY,
    "up-run": again.RUN,
    "git": work.GIT,
    "tar": work.TAR,
    "compile": work.COMPILE,
    "memory": memory.FIGURE,
    "feed-quiet": feed.QUIET,
    "feed-storm": feed.STORM,
    "feed-rate": feed.RATE,
    "feed-ready": following.READY,
    "feed-memory": following.MEMORY,
    "feed-idle": following.IDLE,
}


def main() -> None:
    """Measure and print what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Print the figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it works")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(FIGURES):
        parser.error(f"no figure is called {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        sys.exit("the figures need root: they mount overlays")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that all is undone
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.set_propagation(b"/", syscalls.MS_REC | syscalls.MS_PRIVATE)
    print(_machine())
    print("medians, and how many times the first row of the same column that is")
    for name in arguments.names or FIGURES:
        figure = FIGURES[name]
        print(f"\n{name}: {figure.title}")
        _show(figure, figure.quick if arguments.quick else figure.sizes)


def _machine() -> str:
    """Return what the figures depend on."""
    models = [
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    words = [
        f"Linux {platform.release()}",
        _output("findmnt", "--noheadings", "--output=FSTYPE", "--target", tempfile.gettempdir()),
        f"{os.cpu_count()} cores ({models[0] if models else platform.machine()})",
        f"Python {platform.python_version()}",
        *(
            _output(name, "--version").partition(" (")[0]
            for name in peers.PROGRAMS[:2]
            if not missing((name,))
        ),
    ]
    return ", ".join(words)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _show(figure: Figure, sizes: Mapping[int, int]) -> None:
    if lacking := missing(figure.programs):
        print(f"  skipped: this machine lacks {', '.join(lacking)}")
        return
    columns = {}
    for size, rounds in sizes.items():
        with _ground() as place:
            columns[size] = figure.measure(place, size, rounds)
    for line in table(figure, columns):
        print(f"  {line}", flush=True)
    if lacking := missing(figure.optional):
        print(f"  rows are missing: this machine lacks {', '.join(lacking)}")


@contextmanager
def _ground() -> Iterator[Path]:
    """Yield an empty directory; it goes at the end, and before it what is mounted below it."""
    place = Path(tempfile.mkdtemp(prefix="es-bench-")).resolve()
    try:
        yield place
    finally:
        below = os.fsencode(place) + b"/"
        for mount in reversed(read_mounts()):
            if mount.point.startswith(below):
                syscalls.umount(mount.point, syscalls.MNT_DETACH)
        trees.remove(place)


if __name__ == "__main__":
    main()
