"""What anybody may do to a tree, at random: few names, so that everything meets everything."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.support import trees

if TYPE_CHECKING:
    import random
    from pathlib import Path

NAMES = [b"a", b"b", b"c", b"a-b", b"\xff\n"]
CONTENTS = [b"", b"one", b"two", b"x" * 5000]
MODES = [0o644, 0o4755, 0o700, 0o000]


def write_at_random(root: Path, draw: random.Random, count: int) -> None:
    """Do what anybody may do to a tree; what cannot be done is not done."""
    for _ in range(count):
        paths = [path for path in trees.snapshot(root) if path != trees.ROOT]
        places = [trees.ROOT, *(path for path in paths if (root / os.fsdecode(path)).is_dir())]
        new = os.path.join(os.fsencode(root), draw.choice(places), draw.choice(NAMES))
        old = os.path.join(os.fsencode(root), draw.choice(paths or [b"a"]))
        with suppress(OSError):
            draw.choice([_make, _make, _change, _dress])(draw, old, new)


def _make(draw: random.Random, old: bytes, new: bytes) -> None:
    match draw.randrange(7):
        case 0 | 1 | 2:
            _write(new, os.O_CREAT | os.O_TRUNC, draw.choice(CONTENTS))
        case 3:
            os.mkdir(new, 0o755)
        case 4:
            os.symlink(draw.choice([b"a", b"../b", b"/nowhere"]), new)
        case 5:
            os.mkfifo(new, 0o600)
        case 6:
            os.link(old, new, follow_symlinks=False)


def _change(draw: random.Random, old: bytes, new: bytes) -> None:
    match draw.randrange(3):
        case 0:
            os.rename(old, new)
        case 1:
            _write(old, os.O_APPEND, draw.choice(CONTENTS))
        case 2 if os.path.islink(old) or not os.path.isdir(old):
            os.unlink(old)
        case 2:
            shutil.rmtree(old)


def _dress(draw: random.Random, old: bytes, _new: bytes) -> None:
    match draw.randrange(4):
        case 0:
            os.lchown(old, draw.choice([0, 1]), draw.choice([0, 1]))
        case 1 if not os.path.islink(old):
            os.chmod(old, draw.choice(MODES))
        case 2:
            value = draw.choice([b"one", b"two"])
            os.setxattr(old, "trusted.mine", value, follow_symlinks=False)
        case 3:
            modified = draw.choice([1, 2]) * 10**9
            os.utime(old, ns=(10**9, modified), follow_symlinks=False)


def _write(path: bytes, how: int, content: bytes) -> None:
    file = os.open(path, how | os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW, 0o644)
    try:
        os.write(file, content)
    finally:
        os.close(file)
