"""The directories that a stack file names are looked at when it is loaded from the disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from envstack.errors import StackFileError
from envstack.stackfile import load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for name in ("a", "b", "a/inner"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("a")
    return tmp_path / "envstack.yaml"


def faults_of(path: Path, layers: str, rest: str = "") -> list[str]:
    path.write_text(f"version: 1\nlayers:\n{layers}\n{rest}")
    try:
        load(os.fsencode(path))
    except StackFileError as error:
        return [f"{row['line']}:{row['column']}: {row['message']}" for row in error.faults]
    return []


def test_a_missing_directory_is_a_fault_beside_the_others(path: Path) -> None:
    layers = "  - {name: x, dir: absent}\n  - {name: y, dir: file, at: /}\n  - {name: z, dir: a}"
    assert faults_of(path, layers) == [
        f"3:20: there is no such directory: {path.parent}/absent",
        f"4:20: this is not a directory: {path.parent}/file",
        "4:30: `at` must be relative: it is a path of the merged tree",
    ]


def test_a_name_that_the_kernel_refuses_is_a_fault(path: Path) -> None:
    [fault] = faults_of(path, f"  - {{name: x, dir: {'n' * 300}}}")
    assert fault.startswith("3:20: this cannot be used (File name too long): /")


@pytest.mark.parametrize("second", [".", "a", "a/", "a/inner", "link", "b/../a"])
def test_directories_by_reference_must_not_overlap(path: Path, second: str) -> None:
    layers = f"  - {{name: x, dir: a}}\n  - {{name: y, dir: {second}}}"
    [fault] = faults_of(path, layers)
    assert fault.startswith("4:20: the directory overlaps that of a layer below it")


def test_directories_that_are_copied_may_overlap(path: Path) -> None:
    layers = (
        "  - {name: w, dir: .}\n"
        "  - {name: x, dir: a, copy: true}\n"
        "  - {name: y, dir: a, at: there}\n"
        "  - {name: z, dir: b, copy: true, at: .}"
    )
    assert faults_of(path, layers) == []


def test_at_the_root_is_by_reference(path: Path) -> None:
    assert faults_of(path, "  - {name: x, dir: ., at: .}\n  - {name: y, dir: a, at: ./}")


@pytest.mark.parametrize("mount", ["a", "a/", "link/../a"])
def test_the_mount_point_must_not_hide_a_layer(path: Path, mount: str) -> None:
    layers = "  - {name: x, dir: a/inner, copy: true}\n  - {name: y, dir: b}"
    found = faults_of(path, layers, f"mount: {mount}")
    assert found == ["3:20: the mount point would hide this directory"]


def test_the_mount_point_may_lie_in_a_layer(path: Path) -> None:
    assert faults_of(path, "  - {name: x, dir: .}", "mount: a/inner/m") == []


def test_a_faulty_mount_does_not_stop_the_look_at_directories(path: Path) -> None:
    found = faults_of(path, "  - {name: x, dir: absent}", "mount: 1")
    assert [fault[:4] for fault in found] == ["3:20", "4:8:"]
