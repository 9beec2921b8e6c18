"""The directories of layers: made, published, sealed and deleted, nothing half done in view.

Owns `layers/`, `staging/` and `lost+found/` below the store's home. A layer appears in `layers/`
under its final name or not at all; it leaves by a rename into `staging/`, where deleting it may be
interrupted. Nothing here decides whether a layer is still needed.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from envstack.errors import Damaged
from envstack.linux.mountinfo import read_mounts
from envstack.linux.removal import remove
from envstack.linux.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, syncfs, umount
from envstack.model import LayerId

if TYPE_CHECKING:
    from collections.abc import Iterator


_log = logging.getLogger(__name__)


class Layers:
    """The layer directories of the store at `home`, which is made with mode 0700 if need be."""

    def __init__(self, home: bytes) -> None:
        self.home = home
        self._layers = os.path.join(home, b"layers")
        self._staging = os.path.join(home, b"staging")
        self._lost = os.path.join(home, b"lost+found")
        for directory in (home, self._layers, self._staging):
            with suppress(FileExistsError):
                os.mkdir(directory, 0o700)

    @property
    def places(self) -> tuple[bytes, bytes]:
        """The directories that hold the layers, and what is being built."""
        return self._layers, self._staging

    def _path(self, layer: str) -> bytes:
        return os.path.join(self._layers, layer.encode())

    def _unused(self, layer: LayerId) -> bytes:
        """Return a path in `staging/` that nobody else uses."""
        return os.path.join(self._staging, f"{layer}.{token_hex(4)}".encode())

    def fs(self, layer: LayerId) -> bytes:
        """Return the path of a layer's tree."""
        return os.path.join(self._path(layer), b"fs")

    def work(self, layer: LayerId) -> bytes:
        """Return the path of an upper's workdir."""
        return os.path.join(self._path(layer), b"work")

    def stage(self, layer: LayerId) -> bytes:
        """Return an empty tree in `staging/` to build `layer` in; `publish` brings it out."""
        staged = os.path.join(self._staging, layer.encode())
        os.mkdir(staged, 0o700)
        tree = os.path.join(staged, b"fs")
        os.mkdir(tree, 0o755)
        return tree

    def stage_work(self, layer: LayerId) -> bytes:
        """Return a workdir for a staged tree that is an upper while it is built."""
        work = os.path.join(self._staging, layer.encode(), b"work")
        os.mkdir(work, 0o700)
        return work

    @contextmanager
    def empty(self) -> Iterator[bytes]:
        """Yield an empty directory in `staging/`, for as long as the context lasts."""
        directory = self._unused(LayerId("empty"))
        os.mkdir(directory, 0o700)
        try:
            yield directory
        finally:
            os.rmdir(directory)

    def publish(self, layer: LayerId, record: dict[str, Any]) -> None:
        """Move a staged layer to its place, durably; `record` is what `layer.json` says of it."""
        staged = os.path.join(self._staging, layer.encode())
        remove(os.path.join(staged, b"work"))
        _sync_tree(staged)
        self.place(layer, record)

    def place(self, layer: LayerId, record: dict[str, Any]) -> None:
        """Like `publish`, but what the tree holds is durable no sooner than the disk is flushed."""
        staged = os.path.join(self._staging, layer.encode())
        _write_record(staged, record)
        os.rename(staged, self._path(layer))
        _sync_directory(self._layers)

    def make_upper(self, layer: LayerId, record: dict[str, Any]) -> None:
        """Make an empty upper with its workdir; it appears whole, durably, or not at all.

        One that is there already stays: a request and the background may make the same.
        """
        staged = self._unused(layer)
        try:
            for directory in (staged, os.path.join(staged, b"fs"), os.path.join(staged, b"work")):
                os.mkdir(directory, 0o700)
            _write_record(staged, record)
            _sync_directory(staged)
            os.rename(staged, self._path(layer))
        except OSError as error:
            remove(staged)
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        _sync_directory(self._layers)

    def describe(self, layer: LayerId, record: dict[str, Any]) -> None:
        """Replace what `layer.json` says of a layer: what a lost database would be made from."""
        _write_record(self._path(layer), record)

    def exists(self, layer: LayerId) -> bool:
        """Tell whether the layer has its tree."""
        return os.path.isdir(self.fs(layer))

    def age(self, layer: LayerId) -> float:
        """Return the seconds since the layer was made; without end where it has no directory."""
        try:
            return time.time() - os.stat(self._path(layer)).st_mtime
        except FileNotFoundError:
            return math.inf

    def is_empty(self, layer: LayerId) -> bool:
        """Tell whether nothing was written into the layer's tree, its root's metadata aside.

        Raises Damaged if the tree is gone.
        """
        try:
            with os.scandir(self.fs(layer)) as entries:
                return next(entries, None) is None
        except FileNotFoundError:
            raise Damaged(f"layer {layer} is gone from the store", "put the store back") from None

    def drop_work(self, layer: LayerId) -> None:
        """Remove the workdir of an upper that has become a layer, durably; gone is no error."""
        remove(self.work(layer))
        with suppress(FileNotFoundError):
            _sync_directory(self._path(layer))

    def delete(self, layer: LayerId) -> None:
        """Delete a layer with all it holds, built or half built; one not there is no error.

        Under a name of its own, so that of two who delete it one does, and the other has nothing
        to do: a request and the background may meet here.
        """
        for place in (self._path(layer), os.path.join(self._staging, layer.encode())):
            doomed = self._unused(layer)
            try:
                os.rename(place, doomed)
            except FileNotFoundError:
                continue
            _sync_directory(self._layers)  # else a power cut may bring back what nobody knows
            remove(doomed)

    def names(self) -> Iterator[LayerId]:
        """Yield the names in `layers/`."""
        for name in os.listdir(self._layers):
            yield LayerId(os.fsdecode(name))

    def lose(self, layer: LayerId) -> bytes:
        """Put a layer that nobody knows aside, and return where it lies now."""
        with suppress(FileExistsError):
            os.mkdir(self._lost, 0o700)
        place = os.path.join(self._lost, os.fsencode(layer))
        while os.path.lexists(place):
            place += b"+"
        os.rename(self._path(layer), place)
        return place

    def sweep(self) -> None:
        """Delete whatever a killed daemon left in `staging/`, its mounts taken off first.

        What does not let itself be deleted, because a command that is being killed still writes
        there, is left to the next start.
        """
        self._take_off_mounts()
        for name in os.listdir(self._staging):
            try:
                remove(os.path.join(self._staging, name))
            except OSError as error:
                _log.warning("%s stays in staging: %s", os.fsdecode(name), error)

    def _take_off_mounts(self) -> None:
        below = os.path.realpath(self._staging) + b"/"
        for mount in reversed(read_mounts()):
            if mount.point.startswith(below):
                umount(mount.point, MNT_DETACH | UMOUNT_NOFOLLOW)


def _write_record(directory: bytes, record: dict[str, Any]) -> None:
    """Write `layer.json` by rename, so that a reader sees the old or the new one, whole."""
    fresh = os.path.join(directory, b"layer.json.new")
    with open(fresh, "w", encoding="ascii") as file:
        json.dump(record, file, default=os.fsdecode)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
    os.rename(fresh, os.path.join(directory, b"layer.json"))


def _sync_directory(path: bytes) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(path: bytes) -> None:
    """Flush the file system of a built tree: one call instead of one a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs(descriptor)
    finally:
        os.close(descriptor)
