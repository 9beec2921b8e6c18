"""Whether a file is open for writing."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from envstack.linux.lease import is_open_for_writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def file(project: Path) -> Path:
    path = project / "file"
    path.write_bytes(b"content")
    return path


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_a_file_that_nobody_has_open_is_not_open_for_writing(file: Path) -> None:
    with opened(file) as descriptor:
        assert not is_open_for_writing(descriptor)


def test_a_reader_is_no_writer(file: Path) -> None:
    with opened(file), opened(file) as descriptor:
        assert not is_open_for_writing(descriptor)


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_a_writer_is_seen_as_long_as_it_is_there(file: Path, flags: int) -> None:
    with opened(file) as descriptor:
        with opened(file, flags):
            assert is_open_for_writing(descriptor)
        assert not is_open_for_writing(descriptor)


def test_a_writable_mapping_is_seen_though_the_file_was_closed(file: Path) -> None:
    with opened(file) as descriptor:
        with opened(file, os.O_RDWR) as writer:
            mapping = mmap.mmap(writer, 7)
        with mapping:
            assert is_open_for_writing(descriptor)
        assert not is_open_for_writing(descriptor)


def test_what_has_no_leases_may_be_open_for_writing(project: Path) -> None:
    with opened(project) as descriptor:
        assert is_open_for_writing(descriptor)


def test_no_lease_is_left(file: Path) -> None:
    with opened(file) as descriptor:
        is_open_for_writing(descriptor)
        assert fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_UNLCK


def test_a_writer_that_comes_meanwhile_harms_nobody(file: Path) -> None:
    """The kernel asks for the lease back by a signal; SIGIO would end this process."""
    asked = threading.Event()

    def ask() -> None:
        with opened(file) as descriptor:
            while not asked.is_set():
                is_open_for_writing(descriptor)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(2_000):
            with opened(file, os.O_WRONLY):
                pass
    finally:
        asked.set()
        thread.join()
