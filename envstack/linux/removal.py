"""Deleting a tree of any depth, in this process.

A daemon must start no program while it serves: between vfork(2) and execve(2) the child has all of
its descriptors, so it would hold the mounts that others are about to exchange or take off.
"""

from __future__ import annotations

import errno
import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: bytes) -> None:
    """Delete what is at `path`; nothing there is no error.

    One directory is open at a time and names are relative to it, so no path grows with the depth.
    Raises OSError; EXDEV at a mount of another file system, on which nothing is deleted.
    """
    parent, name = os.path.split(path)
    try:
        directory = os.open(parent, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        remove_at(directory, name)
    finally:
        os.close(directory)


def remove_at(directory: int, name: bytes) -> None:
    """Delete `name` in an open directory, as `remove` does."""
    here = os.open(b".", _DIRECTORY, dir_fd=directory)
    above: list[bytes] = []
    pending = [[name]]
    try:
        device = os.fstat(here).st_dev
        while pending:
            if pending[-1]:
                name = pending[-1].pop()
                if not _unlink(name, here):
                    here = _step(here, name)
                    if os.fstat(here).st_dev != device:
                        raise OSError(errno.EXDEV, "a mount lies in it", name)
                    above.append(name)
                    pending.append([os.fsencode(child) for child in os.listdir(here)])
                continue
            pending.pop()
            if above:
                here = _step(here, b"..")
                os.rmdir(above.pop(), dir_fd=here)
    finally:
        os.close(here)


def _unlink(name: bytes, directory: int) -> bool:
    """Delete a name that is no directory; return False for one that is."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        return False
    except FileNotFoundError:
        return True
    return True


def _step(here: int, name: bytes) -> int:
    there = os.open(name, _DIRECTORY, dir_fd=here)
    os.close(here)
    return there
