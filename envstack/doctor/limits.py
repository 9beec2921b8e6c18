"""What the system lets envstack have: root, inotify watches, open files.

The inotify limits are held against the directories that the uppers of the store have today, because
the change feed takes one watch a directory. They are counted on disk; no daemon is asked.
"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from envstack.doctor.check import Check, limited, missing, ok
from envstack.doctor.kernel import setting

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPARE = 2
"""How many times today's need a limit should hold: uppers grow, and others watch too."""

_FEW_WATCHES = 65_536
_FEW_INSTANCES = 64
_SHORT_QUEUE = 16_384
_FEW_FILES = 4_096


def checks(home: bytes) -> Iterator[Check]:
    """Yield what there is to say of the limits, with the uppers of the store at `home` in view."""
    yield _root()
    yield _open_files()
    uppers = list(_uppers(home))
    yield from _inotify(len(uppers), sum(_directories(upper) for upper in uppers))


def _root() -> Check:
    if os.geteuid() == 0:
        return ok("root", "this is root")
    return missing("root", f"this is user {os.geteuid()}", "sudo envstack …: mounting needs root")


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_limit(soft)}, which the daemon raises to {_limit(hard)}"
    if hard != resource.RLIM_INFINITY and hard < _FEW_FILES:
        return limited("open files", found, "raise the hard limit (ulimit -Hn, limits.conf)")
    return ok("open files", found)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"


def _inotify(uppers: int, directories: int) -> Iterator[Check]:
    yield _kept(
        "inotify watches",
        "max_user_watches",
        max(_FEW_WATCHES, _SPARE * directories),
        f"{directories:,} directories in today's uppers",
    )
    yield _kept(
        "inotify instances",
        "max_user_instances",
        max(_FEW_INSTANCES, _SPARE * uppers),
        f"{uppers:,} uppers",
    )
    yield _kept("inotify queue", "max_queued_events", _SHORT_QUEUE, "events before some are lost")


def _kept(name: str, key: str, wanted: int, against: str) -> Check:
    value = setting(f"fs/inotify/{key}")
    if value is None or not value.isdecimal():
        return limited(name, "no limit can be read", "mount /proc; does this kernel have inotify?")
    found = f"{int(value):,} ({against})"
    if int(value) < wanted:
        return limited(name, found, f"sysctl fs.inotify.{key}={wanted}")
    return ok(name, found)


def _uppers(home: bytes) -> Iterator[bytes]:
    """Yield the trees of the layers that are still written: those with a workdir."""
    try:
        with os.scandir(os.path.join(home, b"layers")) as layers:
            for layer in layers:
                if os.path.isdir(os.path.join(layer.path, b"work")):
                    yield os.path.join(layer.path, b"fs")
    except OSError:
        return  # no store yet, or another user's: there is nothing to count


def _directories(tree: bytes) -> int:
    return sum(1 for _ in os.walk(tree))
