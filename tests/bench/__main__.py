"""`python -m tests.bench`: rotation and swap against the bare system calls, by files in the upper.

Runs as root, in a mount namespace of its own, on the file system of the temporary directory.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path

from envstack.linux import syscalls
from tests.bench.rotation import Figures, measure

_SIZES = {100: 40, 10_000: 12, 100_000: 4}
"""Files in the upper, and how many rounds: each makes them anew."""


def main() -> None:
    """Measure and print."""
    if os.geteuid() != 0:
        sys.exit("the figures need root: they mount overlays")
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.set_propagation(b"/", syscalls.MS_REC | syscalls.MS_PRIVATE)
    print(f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("median milliseconds, and how many times the bare system calls that is\n")
    print(f"{'files':>8} {'bare':>7}  {'rotation':>16}  {'swap':>16}  {'with holders scan':>18}")
    rows = []
    for files, rounds in _SIZES.items():
        with tempfile.TemporaryDirectory() as directory:
            rows.append(measure(Path(directory), files, rounds))
        print(_line(files, rows[-1]), flush=True)
    first, last = rows[0], rows[-1]
    print(
        f"\n{max(_SIZES):,} files against {min(_SIZES):,}: rotation"
        f" {last.rotation / first.rotation:.2f} times, swap {last.swap / first.swap:.2f} times"
    )


def _line(files: int, row: Figures) -> str:
    cells = [f"{value:8.3f} ({value / row.bare:4.2f}x)" for value in (row.rotation, row.swap)]
    whole = f"{row.whole:9.3f} ({row.whole / row.bare:4.1f}x)"
    return f"{files:>8,} {row.bare:7.3f}  {cells[0]:>16}  {cells[1]:>16}  {whole:>18}"


if __name__ == "__main__":
    main()
