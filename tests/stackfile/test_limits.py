"""The user's limits: what they may be, and what is said of what they may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from envstack.errors import UsageError
from envstack.stackfile.limits import Limits, load

if TYPE_CHECKING:
    from pathlib import Path


def test_without_a_file_nothing_is_set(tmp_path: Path) -> None:
    assert load(bytes(tmp_path / "config.yaml")) == Limits(journal=64 << 20)


@pytest.mark.parametrize("text", ["feed: {}", "{}"])
def test_what_is_not_named_is_as_it_was(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert load(bytes(tmp_path / "config.yaml")) == Limits()


def test_the_journal_is_given_in_mib(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("feed:\n  journal_mib: 3\n")
    assert load(bytes(tmp_path / "config.yaml")) == Limits(journal=3 << 20)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("feed: {journal_mib: 0}", "config.yaml:1:21: `journal_mib` must be a number of MiB"),
        ("feed: {journal_mib: true}", "config.yaml:1:21: `journal_mib` must be a number"),
        ("feed: {journal_mib: 64MiB}", "config.yaml:1:21: `journal_mib` must be a number"),
        (
            "feed:\n  journal: 3",
            "config.yaml:2:3: unknown key `journal`; known here: `journal_mib`",
        ),
        ("feeds: 1", "config.yaml:1:1: unknown key `feeds`; known here: `feed`"),
        ("feed: 1", "config.yaml:1:7: `feed` must be a mapping"),
        ("- feed", "config.yaml:1:1: the configuration must be a mapping"),
        ("feed: [", "config.yaml:1:8"),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UsageError) as fault:
        load(bytes(tmp_path / "config.yaml"))
    assert said in fault.value.message
