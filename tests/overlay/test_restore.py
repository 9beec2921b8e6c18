"""Any chain becomes any other one through its mount: what the kernel shows afterwards is equal."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envstack.overlay.care import Care, look
from envstack.overlay.exactly import plan
from envstack.overlay.merged import LayerTree
from envstack.overlay.restore import Restoration, temporary
from envstack.overlay.root import copy_root
from tests.support import trees
from tests.support.profiles import COMMON, IS_LONG
from tests.support.scribbles import write_at_random

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ground import Ground
    from tests.support.trees import Tree

pytestmark = pytest.mark.kernel

OURS = temporary("0123456789abcdef")


class Library:
    """Chains of layers, each made on another one by whoever wrote through a mount."""

    def __init__(self, ground: Path) -> None:
        ground.mkdir()
        self.ground = ground
        self.merged = ground / "merged"
        self.merged.mkdir()
        (ground / "empty").mkdir()
        (ground / "base").mkdir(0o755)
        self.chains: list[tuple[str, ...]] = [("base",)]

    def close(self) -> None:
        trees.remove(self.ground)

    @contextmanager
    def written(self, chain: tuple[str, ...]) -> Iterator[Path]:
        """Mount a fresh upper on a chain; the two are another chain from now on."""
        upper = f"layer{len(self.chains)}"
        (self.ground / upper).mkdir()
        (self.ground / f"{upper}.work").mkdir()
        copy_root(os.fsencode(self.ground / chain[0]), os.fsencode(self.ground / upper))
        self.chains.append((upper, *chain))
        places = f"lowerdir={':'.join(chain)},upperdir={upper},workdir={upper}.work"
        with self._mounted(f"index=off,metacopy=off,redirect_dir=nofollow,xino=on,{places}"):
            yield self.merged

    def shown(self, chain: tuple[str, ...]) -> tuple[Tree, dict[bytes, int]]:
        """Return what a chain shows that is mounted on its own, and the times of it."""
        lowers = ":".join([*chain, "empty"])
        with self._mounted(f"ro,metacopy=off,redirect_dir=nofollow,xino=on,lowerdir={lowers}"):
            return seen(self.merged)

    def trees(self, chain: tuple[str, ...]) -> list[LayerTree]:
        return [
            LayerTree(os.fsencode(self.ground / layer), marked_by_type=layer != "base")
            for layer in chain
        ]

    @contextmanager
    def _mounted(self, options: str) -> Iterator[None]:
        mount = ["mount", "-t", "overlay", "-o", options, "none", str(self.merged)]
        subprocess.run(mount, check=True, cwd=self.ground)
        try:
            yield
        finally:
            subprocess.run(["umount", self.merged], check=True)


def seen(root: Path) -> tuple[Tree, dict[bytes, int]]:
    tree = trees.snapshot(root)
    return tree, {path: os.lstat(os.fsencode(root) + b"/" + path).st_mtime_ns for path in tree}


def restore(library: Library, a: tuple[str, ...], b: tuple[str, ...]) -> None:
    found = plan(library.trees(a), library.trees(b))
    merged = os.fsencode(library.merged)
    restoration = Restoration(merged, found, Care(seen=look(merged, found.paths)), OURS)
    for _ in restoration.run():
        pass
    assert restoration.late == [], restoration.late


@settings(COMMON, max_examples=2000 if IS_LONG else 25)
@given(draw=st.randoms(use_true_random=False))
def test_a_tree_becomes_what_another_chain_shows(ground: Ground, draw: random.Random) -> None:
    library = Library(ground.fresh("r"))
    try:
        write_at_random(library.ground / "base", draw, 12)
        for _ in range(4):
            with library.written(draw.choice(library.chains)) as merged:
                write_at_random(merged, draw, 6)
        target = draw.choice(library.chains)
        wanted = library.shown(target)
        with library.written(draw.choice(library.chains)) as merged:
            write_at_random(merged, draw, 6)
            before = trees.snapshot(merged)
            inodes = {path: os.lstat(os.fsencode(merged) + b"/" + path).st_ino for path in before}
            restore(library, library.chains[-1], target)
            tree, times = seen(merged)
            assert not trees.differences(tree, wanted[0])
            assert times == wanted[1]
            for path in before.keys() & tree.keys():
                if before[path].kind == tree[path].kind == "dir":
                    there = os.lstat(os.fsencode(merged) + b"/" + path).st_ino
                    assert there == inodes[path], "a directory is the one that it was"
            again = plan(library.trees(library.chains[-1]), library.trees(target))
            assert again.paths == [], "done again it finds nothing to do"
    finally:
        library.close()
