"""Bytes on disk: what du(1) says."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from envstack.overlay.usage import Usage
from tests.support import trees

if TYPE_CHECKING:
    from pathlib import Path


def nothing() -> None:
    pass


def usage(path: Path) -> int:
    counted = Usage()
    counted.add_tree(os.fsencode(path), nothing)
    return counted.bytes


def test_it_is_what_du_says(tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "a/file", tmp_path / "a/b/again")
    os.symlink("a", tmp_path / "link")
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"x" * 5000)
    told = subprocess.run(
        ["du", "-s", "--block-size=1", tmp_path], check=True, capture_output=True, text=True
    )
    assert usage(tmp_path) == int(told.stdout.split()[0])


def test_a_tree_deeper_than_a_path_may_be_long_is_counted(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(1200):
        os.mkdir("deeper", dir_fd=here)
        there = os.open("deeper", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = there
    one = os.fstat(here).st_blocks * 512
    os.close(here)
    counted = usage(tmp_path)
    trees.remove(tmp_path)
    assert counted >= 1200 * one


def test_counting_ends_when_it_is_told_to_and_keeps_what_it_has(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"x" * 10_000)
    whole = usage(tmp_path)

    class EnoughError(Exception):
        pass

    left = iter(range(3))

    def tick() -> None:
        if next(left, None) is None:
            raise EnoughError

    counted = Usage()
    with pytest.raises(EnoughError):
        counted.add_tree(os.fsencode(tmp_path), tick)
    assert 0 < counted.bytes < whole
