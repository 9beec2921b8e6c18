"""How much a tree holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from envstack.model import Extent
from envstack.store.extent import measure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def tree(directory: Callable[[], Path]) -> Path:
    return directory()


def measured(tree: Path) -> Extent:
    return measure(os.fsencode(tree))


def test_an_empty_tree_holds_nothing(tree: Path) -> None:
    assert measured(tree) == Extent(0, 0)


def test_every_kind_of_entry_counts_and_regular_files_alone_have_bytes(tree: Path) -> None:
    (tree / "dir" / "below").mkdir(parents=True)
    (tree / "dir" / "below" / "file").write_bytes(b"123")
    (tree / "file").write_bytes(b"12345")
    (tree / "link").symlink_to("dir")
    os.mkfifo(tree / "fifo")
    (tree / os.fsdecode(b"\xff\n")).write_bytes(b"1")
    assert measured(tree) == Extent(7, 9)


def test_a_file_of_many_names_has_its_bytes_once(tree: Path) -> None:
    (tree / "dir").mkdir()
    (tree / "one").write_bytes(b"12345")
    os.link(tree / "one", tree / "dir" / "two")
    assert measured(tree) == Extent(3, 5)


def test_a_tree_deeper_than_any_path_is_measured(tree: Path) -> None:
    here = os.open(tree, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deeper", dir_fd=here)
        there = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    assert measured(tree) == Extent(1500, 0)


def test_a_tree_that_is_gone_is_an_error(tree: Path) -> None:
    with pytest.raises(FileNotFoundError):
        measured(tree / "gone")
