"""All the programs of `residents` and `onlookers` in one merged tree, and its history among them.

What of the tree stands still while it is sealed must be in the checkpoint to the byte; of the log,
which is written all the time, what was written until then. Nobody meets an error, and who goes on
writing to a file that a rollback replaced is named.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tests.support import chains, trees
from tests.support.onlookers import Editor, Watcher, Web
from tests.support.residents import Database, Logger, Mapper, Resident, Shell, rows_of

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.support.sandbox import Sandbox
    from tests.support.trees import Tree

Json = dict[str, Any]
R = TypeVar("R", bound=Resident)
Inodes = dict[str, tuple[int, int]]

_LOG = "data/log"
_READ = "src/part0/read"


@dataclass(frozen=True, slots=True)
class Point:
    """A checkpoint: what stood still in the tree, the log, how many rows were committed."""

    tree: Tree
    log: bytes
    rows: int


class Household:
    """Everybody in the merged tree of `sandbox`; `place` is a directory elsewhere."""

    def __init__(self, sandbox: Sandbox, place: Path, chance: random.Random) -> None:
        self._sandbox = sandbox
        self._merged = merged = sandbox.merged
        self._place = place
        self._chance = chance
        self._count = 0
        self._points: dict[str, Point] = {}
        self._all: list[Resident] = []
        self._stack = ExitStack()
        with self._stack:
            self._settle(Shell(merged / "deep/er/est"))
            self._database = self._settle(Database(merged / "data"))
            self._logger = self._settle(Logger(merged / _LOG))
            self._mapper = self._settle(Mapper(merged / "map"))
            self._settle(Web(merged / "web"))
            self._unsaved = self._settle(Editor(merged / "notes", place / "unsaved"))
            self._unsaved.write_without_saving("not saved")
            self._reading = self._settle(Editor(merged / _READ, place / "reading"))
            src = merged / "src"
            self._watchers = [
                self._settle(Watcher.inotifywait(src)),
                self._settle(Watcher.watchfiles(src)),
            ]
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _settle(self, resident: R) -> R:
        self._stack.callback(resident.kill)
        self._all.append(resident)
        return resident

    def live_on(self) -> None:
        """Let everybody do his work, and change what stands still from then on."""
        self._count += 1
        for resident in self._all:
            resident.work()
        assert self._unsaved.shown == "saved|not saved"
        self._forget()
        self._hear(set(self._change_sources()))
        self._change_quietly()
        page = self._chance.choice(Web.PAGES)
        self._put(self._merged / "web" / page, f"{page} {self._count} end")
        if self._chance.random() < 0.3:
            self._mapper.rewrite()

    def checkpoint(self, mode: str) -> None:
        """Seal, and compare the checkpoint with what was there; no file is another one."""
        self._mapper.work()
        before, inodes, log = self._quiet(), self._inodes(), self._logger.read()
        answer = self._sandbox.checkpoint(f"number {self._count}", mode=mode)
        self._mapper.work()  # to a page that may be dirty still: no time stamp tells of it
        assert answer["mode"] == "live", answer
        assert set(answer["unstable"]) <= {_LOG}, answer
        assert self._inodes() == inodes
        self._take(answer["id"], before, log, self._database.committed)

    def roll_back(self, mode: str, *, discard: bool) -> None:
        """Go back to any point, and see to those who have files that were replaced."""
        rev = self._chance.choice(list(self._points))
        point = self._points[rev]
        before, inodes, log = self._quiet(), self._inodes(), self._logger.read()
        self._forget()
        answer = self._sandbox.rollback(rev, mode=mode, discard=discard)
        assert answer["mode"] == "in-place", answer
        now = self._inodes()
        after = self._quiet()
        found = trees.differences(after, point.tree)
        assert not found, "merged (left) is not what it was (right):\n" + "\n".join(found)
        if not discard:
            self._take(answer["saved"], before, log, self._database.committed)
        else:
            assert answer["saved"] is None
        if answer["saved_meanwhile"] is not None:
            self._take(answer["saved_meanwhile"], point.tree, b"", point.rows)
        self._hear(path for path, _, _ in trees.changes(before, after) if path.startswith(b"src/"))
        replaced = {path for path, inode in inodes.items() if now.get(path) != inode}
        self._check_orphans(answer, replaced)
        self._see_to(point, replaced)

    def look_at_all_again(self) -> None:
        """See that every point of history is what it was made of, mounted by itself."""
        for rev, point in self._points.items():
            with chains.mounted(self._sandbox.home, rev) as tree:
                shown = trees.snapshot(tree)
                assert (tree / _LOG).read_bytes() == point.log
            self._differ_in_nothing(shown, point.tree, rev)

    def end(self) -> None:
        """End everybody as he ends by himself."""
        assert self._unsaved.shown == "saved|not saved"
        for resident in self._all:
            resident.end()

    def _take(self, rev: str, tree: Tree, log: bytes, rows: int) -> None:
        """Take note of a checkpoint, mounted by itself; `log` is what the log held before."""
        with chains.mounted(self._sandbox.home, rev) as shown:
            self._differ_in_nothing(trees.snapshot(shown), tree, rev)
            sealed = (shown / _LOG).read_bytes()
            assert rows_of(shown / "data", "app.db", self._place) == rows
        assert sealed.startswith(log)
        self._logger.check(sealed)
        self._points[rev] = Point(tree, sealed, rows)

    def _differ_in_nothing(self, shown: Tree, tree: Tree, rev: str) -> None:
        found = trees.differences(_without_log(shown), tree)
        assert not found, f"{rev} (left) is not what was there (right):\n" + "\n".join(found)

    def _check_orphans(self, answer: Json, replaced: set[str]) -> None:
        """Who writes to what was replaced is named with it; the log alone may be left as it is."""
        late = {row["path"] for row in answer["late"]}
        assert late <= {_LOG}
        assert late.isdisjoint(replaced)
        orphaned = {
            (row["pid"], hold["path"].removeprefix(f"{self._merged}/").split(" ")[0])
            for row in answer["orphaned"]
            for hold in row["holds"]
        }
        writers = {
            _LOG: self._logger.pid,
            "map/written": self._mapper.pid,
            **dict.fromkeys(("data/app.db", "data/app.db-wal"), self._database.pid),
        }
        wanted = {(pid, path) for path, pid in writers.items() if path in replaced}
        assert wanted <= orphaned, f"{wanted - orphaned} are not named: {answer['orphaned']}"
        assert {pid for pid, _ in orphaned} <= set(writers.values())

    def _see_to(self, point: Point, replaced: set[str]) -> None:
        """Have those begin again who have what is not there any more; until then they go on."""
        if _LOG in replaced:
            assert (self._merged / _LOG).read_bytes() == point.log
            self._logger.reopen(point.log)
        if {"data/app.db", "data/app.db-wal"} & replaced:
            self._database.begin_again(point.rows)
        if {"map/written", "map/mapped"} & replaced:
            self._mapper.work()
            self._mapper.map_anew()
        text = (self._merged / _READ).read_text()
        assert self._reading.look_again() == text.removesuffix("\n").replace("\n", "|")

    def _forget(self) -> None:
        for watcher in self._watchers:
            watcher.forget()

    def _hear(self, paths: Iterable[bytes]) -> None:
        shown = [f"{self._merged}/{os.fsdecode(path)}" for path in paths]
        for watcher in self._watchers:
            watcher.hear(shown)

    def _quiet(self) -> Tree:
        return _without_log(trees.snapshot(self._merged))

    def _inodes(self) -> Inodes:
        """Return the device and inode number of all that is there."""
        found = {}
        for directory, names, files in os.walk(self._merged):
            for name in (*names, *files):
                path = os.path.join(directory, name)
                info = os.lstat(path)
                found[os.path.relpath(path, self._merged)] = info.st_dev, info.st_ino
        return found

    def _change_sources(self) -> Iterator[bytes]:
        """Change files below `src`, whose directories stay; yield the paths."""
        part = f"src/part{self._chance.randrange(3)}"
        new = f"{part}/file{self._chance.randrange(6)}"
        self._put(self._merged / new, f"{self._count}\n")
        yield os.fsencode(new)
        with (self._merged / _READ).open("a") as file:
            file.write(f"{self._count}\n")
        yield os.fsencode(_READ)
        names = sorted(os.listdir(self._merged / part))
        gone = self._chance.choice(names)
        if gone != "read" and self._chance.random() < 0.5:
            (self._merged / part / gone).unlink()
            yield os.fsencode(f"{part}/{gone}")

    def _change_quietly(self) -> None:
        """Change anything below `quiet`."""
        for _ in range(self._chance.randrange(1, 6)):
            one, other = (self._merged / "quiet" / self._chance.choice("abcd") for _ in range(2))
            self._chance.choice(_CHANGES)(one, other, self._count)

    def _put(self, path: Path, content: str) -> None:
        """Put a file there whole, in one step, as what is read all the time is."""
        new = path.with_name(".new")
        new.write_text(content)
        new.rename(path)


def _make_file(path: Path, _other: Path, count: int) -> None:
    trees.remove(path)
    path.write_text(f"{count}\n" * (count % 4))


def _make_directory(path: Path, _other: Path, count: int) -> None:
    trees.remove(path)
    path.mkdir(0o751)
    (path / "in").write_text(f"{count}\n")


def _make_link(path: Path, _other: Path, count: int) -> None:
    trees.remove(path)
    path.symlink_to(f"../notes{count}")


def _fill(path: Path, _other: Path, count: int) -> None:
    if path.is_dir():
        (path / f"in{count}").write_text("more\n")


def _dress(path: Path, _other: Path, count: int) -> None:
    if path.exists():
        os.chown(path, count, 1)
        os.setxattr(path, "user.count", b"%d" % count)


def _give_another_name(path: Path, other: Path, _count: int) -> None:
    if path.is_file() and not os.path.lexists(other):
        os.link(path, other)


_CHANGES = (_make_file, _make_directory, _make_link, _fill, _dress, _give_another_name)


def _without_log(tree: Tree) -> Tree:
    return {path: entry for path, entry in tree.items() if path != os.fsencode(_LOG)}
