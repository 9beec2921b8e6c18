"""The user's limits: what they may be, and what is said of what they may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from envstack.errors import UsageError
from envstack.stackfile.limits import ArchiveLimits, Limits, load

if TYPE_CHECKING:
    from pathlib import Path


def test_without_a_file_nothing_is_set(tmp_path: Path) -> None:
    assert load(bytes(tmp_path / "config.yaml")) == Limits(journal=64 << 20)


@pytest.mark.parametrize("text", ["feed: {}", "{}"])
def test_what_is_not_named_is_as_it_was(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert load(bytes(tmp_path / "config.yaml")) == Limits()


def test_the_limits_of_archives_are_given_one_by_one(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("archive: {max_mib: 2, max_members: 7, max_ratio: 3}\n")
    assert load(bytes(config)) == Limits(archive=ArchiveLimits(2 << 20, 7, 3))
    config.write_text("archive: {max_members: 7}\nfeed: {journal_mib: 3}\n")
    assert load(bytes(config)) == Limits(3 << 20, ArchiveLimits(members=7))


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
        ("feeds: 1", "config.yaml:1:1: unknown key `feeds`; known here: `feed`, `archive`"),
        ("archive: {max_ratio: 0}", "1:22: `max_ratio` must be a number, from 1 to 1000000"),
        ("archive: {max_files: 1}", "known here: `max_mib`, `max_members`, `max_ratio`"),
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
