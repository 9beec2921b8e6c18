"""What the inputs of a command hold, as one digest: it changes with all that they are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from envstack.sources.inputs import NoMatchError, digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "src/deep").mkdir(parents=True)
    (root / "src/a.py").write_text("a")
    (root / "src/deep/b.py").write_text("b")
    (root / ".hidden").write_text("hidden")
    (root / "[x]*").write_text("a name like a pattern")
    (root / "x").write_text("x")
    (root / "link").symlink_to("src")
    (root / "out").symlink_to(tmp_path)
    return root


def of(tree: Path, *patterns: str) -> str:
    return digest(os.fsencode(tree), patterns)


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "src/deep/b.py").write_text("c"),
    "name": lambda root: (root / "src/a.py").rename(root / "src/c.py"),
    "permission": lambda root: (root / "src/a.py").chmod(0o755),
    "new file": lambda root: (root / "src/deep/new").touch(),
    "new directory": lambda root: (root / "src/new").mkdir(),
    "type": lambda root: os.replace(root / "link", root / "src/a.py"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("patterns", [("src",), ("**",), ("src/**", "src"), (".",)])
def test_a_change_below_a_directory_is_seen(
    tree: Path, change: str, patterns: tuple[str, ...]
) -> None:
    before = of(tree, *patterns)
    assert of(tree, *patterns) == before
    CHANGES[change](tree)
    assert of(tree, *patterns) != before


def test_times_and_what_no_pattern_names_do_not_count(tree: Path) -> None:
    before = of(tree, "src/*.py")
    os.utime(tree / "src/a.py", (1, 1))
    (tree / "x").write_text("y")
    (tree / "src/deep/b.py").write_text("c")
    assert of(tree, "src/*.py") == before


def test_a_name_that_looks_like_a_pattern_is_meant_itself(tree: Path) -> None:
    before = of(tree, "[x]*")
    (tree / "x").write_text("y")
    assert of(tree, "[x]*") == before
    (tree / "[x]*").write_text("changed")
    assert of(tree, "[x]*") != before


@pytest.mark.parametrize("pattern", ["out/outside", "link/a.py", "link/deep/b.py", "link/*.py"])
def test_no_symbolic_link_is_followed_on_the_way_to_an_input(tree: Path, pattern: str) -> None:
    (tree.parent / "outside").write_text("of the machine, not of the tree")
    with pytest.raises(NoMatchError):
        of(tree, pattern)


def test_a_symbolic_link_counts_by_its_target_and_leads_nowhere(tree: Path) -> None:
    before = of(tree, "link", "out")
    (tree / "src/a.py").write_text("changed")
    (tree.parent / "outside").touch()
    assert of(tree, "link", "out") == before
    (tree / "link").unlink()
    (tree / "link").symlink_to("elsewhere")
    assert of(tree, "link", "out") != before


def test_hidden_files_are_matched(tree: Path) -> None:
    before = of(tree, "*")
    (tree / ".hidden").write_text("changed")
    assert of(tree, "*") != before


def test_the_order_of_patterns_and_repeats_make_no_difference(tree: Path) -> None:
    assert of(tree, "x", "src") == of(tree, "src", "x", "src/a.py", "./x")


@pytest.mark.parametrize("pattern", ["nothing", "*.rs", "src/nothing/*"])
def test_a_pattern_that_matches_nothing_is_said(tree: Path, pattern: str) -> None:
    with pytest.raises(NoMatchError) as caught:
        of(tree, "x", pattern)
    assert caught.value.args == (pattern,)
