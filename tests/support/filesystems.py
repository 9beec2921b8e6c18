"""Small file systems of every kind that a store may lie on, in files, for one test each."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support import needs, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILESYSTEMS = ("ext4", "xfs", "btrfs", "tmpfs")

_MIB = 1 << 20
_SIZES = {"ext4": 64 * _MIB, "xfs": 300 * _MIB, "btrfs": 128 * _MIB}
"""The smallest that serve: mkfs.xfs(8) refuses below 300 MiB, mkfs.btrfs(8) below 109. Sparse."""
_MKFS = {"ext4": ["-q", "-F"], "xfs": ["-q"], "btrfs": ["-q"]}


@contextmanager
def mounted(kind: str, place: Path, size: int = 0) -> Iterator[Path]:
    """Mount a new file system of `kind` below `place`, which is made and is gone afterwards.

    It is the smallest that serves, or of `size` bytes, sparse. Skips where the machine has no such
    file system. Raises `subprocess.CalledProcessError` if it cannot be unmounted, because something
    in it is still in use.
    """
    point, image = place / "m", place / "image"
    point.mkdir(parents=True)
    try:
        if kind == "tmpfs":
            _mount(kind, ["-t", "tmpfs", "-o", "size=64m,mode=755", "tmpfs", str(point)])
        else:
            make(kind, image, size)
            mount_image(kind, image, point)
        try:
            yield point
        finally:
            unmount(image, point)
    finally:
        image.unlink(missing_ok=True)
        point.rmdir()
        place.rmdir()


def mount_image(kind: str, image: Path, point: Path) -> None:
    """Mount the file system in a file; it repairs itself by its journal, if it must."""
    _mount(kind, ["-t", kind, "-o", "loop", str(image), str(point)])


def unmount(image: Path, point: Path) -> None:
    """Unmount it, and wait until nothing holds the file any more."""
    subprocess.run(["umount", point], check=True)
    waiting.until(lambda: not _attached(image), f"detaching of {image}")


def make(kind: str, image: Path, size: int = 0) -> None:
    """Make a file system in a new file: the smallest that serves, or one of `size` bytes."""
    mkfs = needs.program(f"mkfs.{kind}")
    with image.open("wb") as file:
        os.truncate(file.fileno(), size or _SIZES[kind])
    subprocess.run([mkfs, *_MKFS[kind], image], check=True, capture_output=True)


def _mount(kind: str, arguments: list[str]) -> None:
    done = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True)
    if "unknown filesystem type" in done.stderr:
        needs.lack(f"the file system {kind}")
    done.check_returncode()


def _attached(image: Path) -> bool:
    listing = ["losetup", "--noheadings", "--list", "--output", "NAME", "--associated", str(image)]
    return bool(subprocess.run(listing, check=True, capture_output=True).stdout)
