"""Both ways of mounting, given to a service by a test instead of being chosen by it."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from envstack.daemon import process
from envstack.daemon.service import Service
from envstack.environment.exchange import FromBeneath, InTurn, Mounts, build_by_mount
from envstack.overlay import mount as overlay

if TYPE_CHECKING:
    from envstack.store.store import Store

NEWER, OLDER = "newer", "older"
"""Linux 6.8 and later; what every kernel has, those before 6.5 nothing else."""


def newer(_store: Store) -> Mounts:
    """Build by fsconfig(2), exchange from beneath."""
    return Mounts(overlay.build, FromBeneath())


def older(store: Store) -> Mounts:
    """Build by mount(2), exchange in turn."""
    return Mounts(build_by_mount(store), InTurn())


CHOICES = {NEWER: newer, OLDER: older}


def daemon(way: str) -> tuple[str, ...]:
    """Return the command of a daemon that mounts in this way; `--ready-fd N` follows."""
    place = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {place!r}); from tests.support.ways import run;"
    return sys.executable, "-c", f"{code} sys.exit(run({way!r}, int(sys.argv[2])))"


def run(way: str, ready_fd: int) -> int:
    """Be a daemon that mounts in this way, until it ends; return its exit code."""
    return process.main(os.environ, ready_fd, partial(Service, choose=CHOICES[way]))
