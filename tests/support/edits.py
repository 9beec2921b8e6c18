"""Small edits of a directory tree that can be listed, named and applied to several trees alike."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Edit = Callable[[Path], None]


def apply(root: Path, *edits: Edit) -> None:
    """Do `edits` beneath `root`, one after the other."""
    for edit in edits:
        edit(root)


def write(path: str, content: str = "", mode: int = 0o644) -> Edit:
    """Give the file at `path` this content and mode, whether it was there or not."""

    def edit(root: Path) -> None:
        (root / path).write_text(content)
        (root / path).chmod(mode)

    return edit


def mkdir(path: str, mode: int = 0o755) -> Edit:
    """Make a directory."""

    def edit(root: Path) -> None:
        (root / path).mkdir()
        (root / path).chmod(mode)

    return edit


def remove(path: str) -> Edit:
    """Delete a file, or a directory with all that it holds."""

    def edit(root: Path) -> None:
        if (root / path).is_dir():
            shutil.rmtree(root / path)
        else:
            (root / path).unlink()

    return edit


def chmod(path: str, mode: int) -> Edit:
    """Change the mode alone."""
    return lambda root: (root / path).chmod(mode)


def chown(path: str, uid: int, gid: int) -> Edit:
    """Change the owner alone, of a symbolic link itself."""
    return lambda root: os.chown(root / path, uid, gid, follow_symlinks=False)


def rename(old: str, new: str) -> Edit:
    """Move by rename(2) alone: no copying behind the scenes."""
    return lambda root: os.rename(root / old, root / new)


def move(old: str, new: str) -> Edit:
    """Move as mv(1) does: by rename(2), by copying where that answers EXDEV."""

    def edit(root: Path) -> None:
        shutil.move(root / old, root / new)

    return edit


def link(old: str, new: str) -> Edit:
    """Give a file a further name."""
    return lambda root: os.link(root / old, root / new, follow_symlinks=False)
