"""Every point of history by itself: its chain from the database, mounted read-only elsewhere.

What a checkpoint holds is read here with no help of the environment that it was made in.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from envstack.linux import syscalls
from envstack.overlay import mount as overlay

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOURCE = b"envstack:"


@contextmanager
def mounted(home: Path, checkpoint: str) -> Iterator[Path]:
    """Mount the chain of a checkpoint of the store at `home`, and nothing else."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=home.parent, prefix="c")))
        for name in ("empty", "tree"):
            (place / name).mkdir()
        # An overlay without an upper takes two layers at the least; this one shows nothing.
        lowers = (*chain(home, checkpoint), os.fsencode(place / "empty"))
        mount = overlay.build(overlay.Overlay(b"chain", lowers), like=os.fsencode(place))
        stack.callback(os.close, mount)
        point = os.fsencode(place / "tree")
        overlay.attach(mount, point)
        stack.callback(syscalls.umount, point, syscalls.MNT_DETACH)
        yield place / "tree"


def chain(home: Path, checkpoint: str) -> list[bytes]:
    """Return the directories of the chain of a checkpoint, topmost first."""
    with closing(sqlite3.connect(f"file:{home}/meta.db?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT chain FROM checkpoint WHERE id = ?", (checkpoint,))
        (layers,) = rows.fetchone()
        sources = dict(database.execute("SELECT id, source FROM layer WHERE kind = 'dir'"))
    stored = os.fsencode(home / "layers")
    return [
        sources.get(layer) or os.path.join(stored, layer.encode(), b"fs")
        for layer in json.loads(layers)
    ]


def upper(home: Path, merged: Path) -> Path:
    """Return the upper of the environment mounted at `merged`, as the mount table tells."""
    point = os.fsencode(os.path.abspath(merged))
    found = [
        line.partition(b" - ")[2].split(b" ")[1]
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines()
        if line.split(b" ")[4] == point
    ]
    return home / "layers" / os.fsdecode(found[-1].removeprefix(_SOURCE)) / "fs"
