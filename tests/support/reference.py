"""The simplest thing that keeps envstack's promises, with mount(8): the model is tried out on it.

It unmounts for every step, so nobody could work in it, and copies nothing; each method that could
be got wrong stands alone, so that a test can get it wrong on purpose.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from tests.support import trees

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Json = dict[str, Any]

OPTIONS = "index=off,metacopy=off,redirect_dir=nofollow,xino=auto"


class Reference:
    """`layers` are directories in `place`, bottom first; chains are topmost first."""

    def __init__(self, place: Path, layers: list[str]) -> None:
        self.place = place
        self.merged = place / "merged"
        self.merged.mkdir()
        (place / "empty").mkdir()
        self._numbers = count(1)
        self._chains = {"base": layers[::-1]}
        self._rows: list[Json] = []
        self._head = "base"
        self._lowers = self._chains["base"]
        self._upper = self._fresh_upper()

    def up(self) -> Json:
        if not os.path.ismount(self.merged):
            self._mount(self.merged, self._lowers, self._upper)
        return {}

    def down(self) -> Json:
        subprocess.run(["umount", self.merged], check=True)
        return {}

    def relay(self) -> Json:
        self.down()
        self.up()
        return {"saved": None}

    def directory(self, layer: str) -> Path:
        return self.place / layer

    def checkpoint(self, message: str = "") -> Json:
        rev = f"c{next(self._numbers)}"
        parent = None if self._head == "base" else self._head
        row = {"id": rev, "parent": parent, "message": message}
        self._rows.insert(0, row)
        self._chains[rev] = self.sealed_chain(self._upper, self._lowers)
        self._stand_on(rev)
        return row

    def rollback(self, rev: str = "@", *, discard: bool = False) -> Json:
        saved = None if discard else self.checkpoint()["id"]
        self._stand_on(rev)
        return {"to": rev, "saved": saved}

    def log(self) -> list[Json]:
        return [{**row, "head": row["id"] == self._head} for row in self._rows]

    def diff(self, a: str | None = None, b: str | None = None) -> list[Json]:
        before = self._view(a or self._head)
        after = self._view(b) if b else trees.snapshot(self.merged)
        return [
            {
                "path": path.decode(errors="replace"),
                "path_b64": base64.b64encode(path).decode(),
                "change": change,
                "kind": kind,
            }
            for path, change, kind in sorted(self.changes(before, after))
        ]

    def kill_daemon(self) -> None:
        """There is none: the mount stays, as it must."""

    def close(self) -> None:
        self.down()
        trees.remove(self.place)

    def sealed_chain(self, upper: str, lowers: list[str]) -> list[str]:
        return [upper, *lowers]

    def changes(self, before: trees.Tree, after: trees.Tree) -> set[tuple[bytes, str, str]]:
        return trees.changes(before, after)

    def dress_root(self, fresh: Path) -> None:
        """Give the root of a fresh upper what the merged root has."""
        with self._mounted(self._lowers) as root:
            info = root.stat()
            os.chown(fresh, info.st_uid, info.st_gid)
            shutil.copystat(root, fresh)

    def _stand_on(self, rev: str) -> None:
        self.down()
        self._head = rev
        self._lowers = self._chains[rev]
        self._upper = self._fresh_upper()
        self.up()

    def _fresh_upper(self) -> str:
        name = f"u{next(self._numbers)}"
        (self.place / name).mkdir()
        (self.place / f"{name}.work").mkdir()
        self.dress_root(self.place / name)
        return name

    def _view(self, rev: str) -> trees.Tree:
        with self._mounted(self._chains[rev]) as root:
            return trees.snapshot(root)

    @contextmanager
    def _mounted(self, chain: list[str]) -> Iterator[Path]:
        point = self.place / "view"
        point.mkdir()
        self._mount(point, [*chain, "empty"], None)
        try:
            yield point
        finally:
            subprocess.run(["umount", point], check=True)
            point.rmdir()

    def _mount(self, point: Path, lowers: list[str], upper: str | None) -> None:
        options = f"{OPTIONS},lowerdir={':'.join(lowers)}"
        if upper is not None:
            options += f",upperdir={upper},workdir={upper}.work"
        command = ["mount", "-t", "overlay", "reference", "-o", options, str(point)]
        subprocess.run(command, check=True, cwd=self.place)
