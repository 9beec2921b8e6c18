"""One RustNotify on one upper: what it was told, and what the kernel tells of its instance.

Owns the way in to watchfiles, whose class is private and whose manners are looked up here and
nowhere else. It decides nothing: when to collect, and what to do when it fails, is the watcher's.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.feed.hints import ROOT, Touch
from envstack.linux import inotify, proc, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from watchfiles._rust_notify import RustNotify

_MODIFIED = 2
_ADDED = 1

_THREAD = b"notify-rs inoti"
"""The thread of the notify crate that reads the events, as far as the kernel keeps its name."""

_GONE_WITHIN = 5.0
_STEP = 0.001


@dataclass(frozen=True, slots=True)
class Collected:
    """What was touched since the last time; `added` are those of it that appeared there."""

    touched: Mapping[bytes, Touch]
    added: tuple[bytes, ...]


class Notifier:
    """Watches an upper, from the end of the constructor on; make it, use it, close it in a thread.

    `has_bell`: each event sends that thread SIGIO, which it must have blocked. It tells more than
    is ever collected, for what is opened or closed rings too. `capacity` is how many events can
    wait in the kernel's queue; `covered` are the inode numbers of what is watched at the start.
    """

    _making = threading.Lock()
    """What is new in this process while it is held is the doing of one constructor."""

    def __init__(self, upper: bytes) -> None:
        """Raises OSError where the upper cannot be watched, or not all of it."""
        self.capacity = inotify.max_queued_events()
        with ExitStack() as stack, self._making:
            root = _without_links(upper)
            stack.callback(os.close, root)
            self._prefix = f"/proc/self/fd/{root}"
            instances, threads = inotify.instances(), proc.threads_named(_THREAD)
            self._notify = _watching(self._prefix)
            stack.callback(self._notify.close)
            self._threads = proc.threads_named(_THREAD) - threads
            found = _watched_by(inotify.instances() - instances, os.fstat(root).st_ino)
            self._instance, self.covered = found
            self.has_bell = self._instance is not None and _rings(self._instance)
            self._held = stack.pop_all()

    def close(self) -> None:
        """Watch no more, and wait a while for the kernel to have the watches back."""
        self._held.close()
        deadline = time.monotonic() + _GONE_WITHIN
        while any(map(proc.is_thread, self._threads)) and time.monotonic() < deadline:
            time.sleep(_STEP)

    def collect(self) -> Collected:
        """Return what was touched since the last time; blocks for nothing.

        Raises OSError where there is nothing to be had from this notifier any more.
        """
        from watchfiles._rust_notify import WatchfilesRustInternalError

        try:
            found = self._notify.watch(0, 0, 0, _TwoLooks())
        except _NothingThere:
            return Collected({}, ())
        except WatchfilesRustInternalError as error:
            raise OSError(errno.EIO, str(error)) from error
        assert isinstance(found, set)
        touched: dict[bytes, Touch] = {}
        added = []
        for change, name in found:
            path = self._relative(name)
            if change != _MODIFIED:
                touched[path] = Touch.TREE
            else:
                touched.setdefault(path, Touch.ENTRY)
            if change == _ADDED:
                added.append(path)
        return Collected(touched, tuple(added))

    def queue_length(self) -> int:
        """Return how many events may be waiting in the kernel's queue, at most."""
        if self._instance is None:
            return 0
        return inotify.queued_bytes(self._instance) // inotify.EVENT_BYTES

    def is_settled(self) -> bool:
        """Tell whether all that happened before the call is told, and what is new is watched.

        First the queue, then the thread that reads it: it sleeps only when it has done with all.
        """
        return self.queue_length() == 0 and all(map(proc.is_asleep, self._threads))

    def watched(self) -> set[int] | None:
        """Return the inode numbers of the directories that are watched, None if nobody knows."""
        return None if self._instance is None else inotify.watched(self._instance)

    def _relative(self, name: str) -> bytes:
        return name[len(self._prefix) + 1 :].encode() or ROOT


def _without_links(upper: bytes) -> int:
    """Return a descriptor of a mount of its own that shows the upper, and follows no link in it.

    RustNotify follows links when it walks, and the upper may have one to `/`. Nor does its way
    depend on where the upper lies then, so that all that comes before a hint is ASCII.
    """
    root = syscalls.open_tree(upper, syscalls.OPEN_TREE_CLONE)
    try:
        syscalls.mount_setattr(root, attr_set=syscalls.MOUNT_ATTR_NOSYMFOLLOW)
    except OSError:
        os.close(root)
        raise
    return root


def _watching(path: str) -> RustNotify:
    """Return what watches a directory. Raises OSError where it does not, or not all of it."""
    # It takes 57 ms to import, which none but the daemon has to spend.
    from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

    try:
        # Not to ignore what is forbidden: it would ignore the limit of watches too.
        return RustNotify([path], False, False, 0, True, False)
    except WatchfilesRustInternalError as error:
        raise OSError(errno.EMFILE, str(error)) from error


def _watched_by(instances: Iterable[int], root: int) -> tuple[int | None, frozenset[int]]:
    """Return the instance that watches the inode number `root`, and all that it watches.

    None where there is none, as on a file system that shows other numbers than it has.
    """
    for instance in instances:
        with suppress(OSError):  # closed by now, hence somebody else's
            numbers = inotify.watched(instance)
            if root in numbers:
                return instance, frozenset(numbers)
    return None, frozenset()


def _rings(instance: int) -> bool:
    try:
        inotify.ring(instance, threading.get_native_id())
    except OSError:
        return False
    return True


class _NothingThere(Exception):
    """Nothing was touched."""


class _TwoLooks:
    """The `stop_event` of `watch`, asked before each look: it ends it if two have shown nothing.

    By an error, for that leaves everything where it is. A timeout, or a stop event that is set,
    clears what came since the look before, and nobody would ever know of it.
    """

    def __init__(self) -> None:
        self._looks = 0

    def is_set(self) -> bool:
        self._looks += 1
        if self._looks > 2:
            raise _NothingThere
        return False
