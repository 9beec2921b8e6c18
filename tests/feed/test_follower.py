"""The feed of one environment: what is told in pieces, under fire, and by books that are older."""

from __future__ import annotations

import mmap
import os
import resource
import shutil
import sqlite3
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from envstack.errors import Damaged, EnvstackError
from envstack.feed import doubt, wish
from envstack.feed import follower as module
from envstack.store.journal import Batch
from envstack.store.store import Store
from tests.feed.standing import ENV, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.kernel


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    with Store(bytes(tmp_path / "store")) as store:
        yield Standing(store, tmp_path)


def test_a_tree_that_is_wished_for_is_wished_for_to_the_last() -> None:
    wished = wish.at([], [b"a/b"])
    assert not wished.below(b"a").whole
    assert wished.below(b"a").below(b"b").below(b"c").whole
    assert not wished.below(b"b").whole


def test_a_tree_that_is_hinted_at_is_looked_through(standing: Standing) -> None:
    follower = standing.follower()
    (standing.upper / "dir").mkdir()
    follower.sweep(standing.env.upper)
    (standing.upper / "dir" / "unseen").touch()
    follower.take(standing.env.upper, [b"dir"], [b"dir"])
    assert standing.told()[-1] == ("added", "dir/unseen")


def test_a_write_by_one_name_is_told_of_all_names(standing: Standing) -> None:
    follower = standing.follower()
    (standing.upper / "one").write_text("1")
    follower.sweep(standing.env.upper)
    (standing.upper / "other").hardlink_to(standing.upper / "one")
    follower.take(standing.env.upper, [b"other"], [b"other"])
    (standing.upper / "other").write_text("written")
    follower.take(standing.env.upper, [b"other"], [])
    assert standing.told()[-2:] == [("modified", "other"), ("modified", "one")]


def test_a_directory_that_a_barrier_finds_is_handed_to_who_watches(standing: Standing) -> None:
    follower = standing.follower()
    follower.sweep(standing.env.upper)
    (standing.upper / "dir").mkdir()
    follower.sync()
    found = follower.sweep(standing.env.upper)
    assert found == [(b"dir", (standing.upper / "dir").stat().st_ino)]
    assert follower.sweep(standing.env.upper) == []


class _Full(Exception):
    """Stands for the end of the daemon, or of the disk."""


@pytest.fixture
def failing(standing: Standing, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`failing(n)` lets n pieces be written, of which each is small, and no more."""
    monkeypatch.setattr(module, "_MANY", 4)
    monkeypatch.setattr(module, "_MOST", 4)

    def fail_after(pieces: int) -> None:
        write, left = standing.store.journal.write, [pieces]

        def failing(*values: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise _Full
            return write(*values)  # type: ignore[arg-type]

        monkeypatch.setattr(standing.store.journal, "write", failing)

    return fail_after


def _remove(standing: Standing) -> None:
    shutil.rmtree(standing.upper / "tree")


def _hide(standing: Standing) -> None:
    os.mknod(standing.upper / "lower", 0o020000, 0)


def _make_opaque(standing: Standing) -> None:
    (standing.upper / "lower").mkdir()
    os.setxattr(standing.upper / "lower", "trusted.overlay.opaque", b"y")


def _show(standing: Standing) -> None:
    (standing.upper / "hidden").unlink()


def _replace(standing: Standing) -> None:
    _remove(standing)
    (standing.upper / "tree").touch()


@pytest.mark.parametrize("pieces", range(1, 4))
@pytest.mark.parametrize(
    ("do", "change", "name"),
    [
        (_remove, "deleted", "tree"),
        (_replace, "deleted", "tree"),
        (_hide, "deleted", "lower"),
        (_make_opaque, "deleted", "lower"),
        (_show, "added", "hidden"),
    ],
)
def test_what_is_told_in_pieces_is_told_to_the_end_if_that_is_interrupted(
    standing: Standing,
    failing: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    do: Callable[[Standing], None],
    change: str,
    name: str,
    pieces: int,
) -> None:
    for tree in (standing.upper / "tree", standing.lower / "lower", standing.lower / "hidden"):
        for number in range(6):
            (tree / str(number)).mkdir(parents=True)
            (tree / str(number) / "file").touch()
    os.mknod(standing.upper / "hidden", 0o020000, 0)
    standing.follower().sweep(standing.env.upper)
    do(standing)
    with monkeypatch.context():
        failing(pieces)
        with pytest.raises(_Full):
            standing.follower().sweep(standing.env.upper)
    monkeypatch.undo()
    standing.follower().sweep(standing.env.upper)
    told = standing.told()
    for number in range(6):
        assert (change, f"{name}/{number}") in told
        assert (change, f"{name}/{number}/file") in told
    before = len(told)
    standing.follower().sweep(standing.env.upper)
    assert len(standing.told()) == before


def test_what_was_told_of_a_directory_whose_rest_was_not_is_taken_back(
    standing: Standing, failing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces: `lower` hides what was below it, and has files of its own."""
    for number in range(9):
        (standing.lower / "lower" / str(number)).mkdir(parents=True)
    standing.follower().sweep(standing.env.upper)
    _make_opaque(standing)
    for number in range(9):
        (standing.upper / "lower" / f"{number}+").touch()
    with monkeypatch.context():
        failing(1)
        with pytest.raises(_Full):
            standing.follower().sweep(standing.env.upper)
    monkeypatch.undo()
    assert ("added", "lower/0+") in standing.told()
    (standing.upper / "lower" / "0+").unlink()
    standing.follower().sweep(standing.env.upper)
    told = standing.told()
    assert told.count(("added", "lower/0+")) == told.count(("deleted", "lower/0+")) == 1
    assert {("added", f"lower/{number}+") for number in range(9)} <= set(told)
    assert {("deleted", f"lower/{number}") for number in range(9)} <= set(told)


def test_books_that_are_older_than_the_journal_begin_it_anew(
    standing: Standing, tmp_path: Path
) -> None:
    books = tmp_path / "store" / "meta.db"
    with closing(sqlite3.connect(books)) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "copy"),))
    before = standing.env
    standing.follower().sync()
    standing.rotate()
    epoch = standing.follower().sync().epoch
    standing.store.db.close()
    for path in (tmp_path / "store").glob("meta.db*"):
        path.unlink()
    (tmp_path / "copy").rename(books)
    with Store(bytes(tmp_path / "store")) as store:
        standing.store, standing.env = store, before
        follower = standing.follower()
        assert follower.advance() == before.upper
        assert follower.sync().epoch != epoch
        (standing.upper / "new").touch()
        follower.sync()
        assert standing.told()[-1] == ("added", "new")
        standing.rotate()
        assert follower.advance() == standing.env.upper


def test_a_beginning_that_was_interrupted_tells_nothing_of_what_was_there(
    standing: Standing, failing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        (standing.upper / str(number)).touch()
    with monkeypatch.context():
        failing(1)
        with pytest.raises(_Full):
            standing.follower().reset()
    monkeypatch.undo()
    standing.follower().sync()
    assert standing.told() == []


@pytest.mark.parametrize("name", ["lower", "upper"])
def test_a_layer_that_is_gone_is_damage_and_no_fault_of_the_daemon(
    standing: Standing, name: str
) -> None:
    follower = standing.follower()
    follower.sync()
    gone = getattr(standing, name)
    shutil.move(gone, gone.with_name("elsewhere"))
    with pytest.raises(Damaged, match="is not there"):
        follower.sync()
    shutil.move(gone.with_name("elsewhere"), gone)
    follower.sync()
    assert not standing.told()


def test_an_environment_that_is_purged_meanwhile_is_told_of_no_more(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = standing.follower()
    follower.sync()
    followed = standing.store.journal.followed(ENV)
    assert followed is not None
    standing.store.journal.forget(ENV)
    with pytest.raises(EnvstackError):
        standing.store.journal.write(followed, Batch(["{}"]))
    assert standing.store.journal.find("SELECT * FROM event") == []


def test_each_doubtful_file_has_its_turn_on_patrol(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATROLLED", 4)
    monkeypatch.setattr(doubt, "_AT_ONCE", 2)
    follower = standing.follower()
    with ExitStack() as stack:
        maps = []
        for number in range(10):
            file = stack.enter_context((standing.upper / str(number)).open("w+b"))
            file.truncate(4096)
            maps.append(stack.enter_context(mmap.mmap(file.fileno(), 0)))
            maps[-1][0] = 1
        follower.sweep(standing.env.upper)
        for _ in range(20):
            follower.patrol()
        before = len(standing.told())
        for each in maps:
            each[0] = 2
        for _ in range(20):
            follower.patrol()
        assert {path for _, path in standing.told()[before:]} == set("0123456789")


def test_a_patrol_reads_so_many_bytes_and_no_more(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubt, "_BYTES_AT_ONCE", 3 << 20)
    follower = standing.follower()
    read: list[int] = []

    def digest(file: int, _most: int) -> bytes:
        read.append(os.fstat(file).st_size)
        return b"bytes"

    monkeypatch.setattr(doubt, "_digest", digest)
    with ExitStack() as stack:
        for number in range(10):
            file = stack.enter_context((standing.upper / str(number)).open("w+b"))
            file.truncate(1 << 20)
        follower.sweep(standing.env.upper)
        for _ in range(4):
            read.clear()
            follower.patrol()
            assert sum(read) == 3 << 20


def test_a_large_file_that_is_open_for_writing_is_not_read(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = standing.follower()
    with (standing.upper / "disk").open("w+b") as file:
        file.truncate(100 << 30)
        follower.sweep(standing.env.upper)
        monkeypatch.setattr(os, "pread", _unwanted)
        follower.patrol()
        follower.recheck()


def _unwanted(*_: object) -> bytes:
    raise AssertionError("nobody is to read it")


def test_time_stamps_that_cannot_be_tried_are_taken_for_coarse(tmp_path: Path) -> None:
    fine = doubt.grain_of(bytes(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as on a full disk
    try:
        assert doubt.grain_of(bytes(tmp_path)) >= max(fine, 10**9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
