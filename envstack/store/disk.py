"""The file system under the store: when all that was written to it would outlive a power cut."""

from __future__ import annotations

import os
import threading

from envstack.linux.syscalls import syncfs


class Disk:
    """One descriptor of the directory, open from the start; `lock` is for who flushes.

    The kernel tells of an error of writing back once a descriptor, by syncfs(2), and only what
    comes after the descriptor was opened is sure to be told. The pages that could not be written
    count as clean from then on, so that the next call succeeds: no more is to be learned from it.
    """

    def __init__(self, directory: bytes) -> None:
        self.lock = threading.Lock()
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._failure: OSError | None = None

    def flush(self) -> None:
        """Write out all that was written before this call, mappings included.

        Raises OSError if anything may be lost; again and again, until `forget`.
        """
        if self._failure is None:
            try:
                syncfs(self._descriptor)
            except OSError as error:
                self._failure = error
        if self._failure is not None:
            raise self._failure

    def forget(self) -> None:
        """Take up flushing again: what was lost is written down."""
        self._failure = None

    def close(self) -> None:
        """Let the file system go."""
        os.close(self._descriptor)
