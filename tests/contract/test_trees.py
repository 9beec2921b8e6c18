"""What containerd asks of a snapshotter's trees, asked of every point of history.

The scenarios are those of containerd's suite (core/snapshots/testsuite), most of them once a bug of
some layered file system. A plain directory that is edited alike is the judge.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tests.support.edits import chown, link, mkdir, move, remove, rename, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.edits import Edit
    from tests.support.story import Story

    Tell = Callable[..., Story]

pytestmark = pytest.mark.kernel
both = pytest.mark.usefixtures("propagation")

LAYERS = 128


@both
def test_a_file_that_is_rewritten_at_once_is_seen_as_rewritten(story: Tell) -> None:
    """Same size, within one tick of the clock: five times, for what depends on the moment."""
    told = story(
        base=[
            mkdir("etc", 0o700),
            write("etc/hosts", "mydomain 10.0.0.1"),
            write("etc/profile", "PATH=/usr/bin"),
        ]
    )
    for _ in range(5):
        rev = told.checkpoint()
        told.edit(
            write("etc/hosts", "mydomain 10.0.0.2"),
            write("etc/profile", "PATH=/usr/bin", 0o666),
            mkdir("root", 0o700),
            write("root/.bashrc", "PATH=/usr/sbin:/usr/bin"),
        )
        rows = [(row["path"], row["change"]) for row in told.sandbox.diff()]
        assert rows == [
            ("etc/hosts", "modified"),
            ("etc/profile", "modified"),
            ("root", "added"),
            ("root/.bashrc", "added"),
        ]
        told.checkpoint()
        told.rollback(rev)
    told.see_all_again()


@both
def test_a_directory_that_is_made_anew_brings_nothing_back(story: Tell) -> None:
    told = story(base=[mkdir("lib", 0o700), write("lib/hidden")])
    told.tell(
        [remove("lib"), mkdir("lib", 0o700), write("lib/not-hidden")],
        [write("lib/newfile")],
    )


@both
def test_owners_change_and_change_back(story: Tell) -> None:
    paths = ("opt", "opt/a", "opt/a/b", "opt/a/b/file.txt")
    told = story(
        base=[
            mkdir("opt", 0o700),
            mkdir("opt/a", 0o700),
            mkdir("opt/a/b", 0o700),
            write("opt/a/b/file.txt", "hello"),
        ]
    )
    told.tell([chown(path, 1, 1) for path in paths], [chown(path, 0, 0) for path in paths])


@both
def test_directories_keep_mode_and_owner_over_every_seal(story: Tell) -> None:
    told = story(base=[])
    first = [mkdir(f"dir{number}", 0o700) for number in range(1, 6)]
    told.tell(
        [
            *first,
            write("dir4/f1", "..."),
            write("dir5/f1", "..."),
            *(chown(path, 1, 1) for path in ("dir1", "dir2", "dir3", "dir5", "dir5/f1")),
        ],
        [chown("dir2", 0, 0), remove("dir3"), chown("dir4", 1, 1), chown("dir4/f1", 1, 1)],
        [
            *(mkdir("dir3", 0o700), chown("dir3", 1, 1)),
            *(remove("dir5"), mkdir("dir5", 0o700), chown("dir5", 1, 1)),
        ],
    )


@both
def test_what_was_deleted_stays_deleted_in_all_that_follows(story: Tell) -> None:
    told = story(base=[write("foo", "foo\n", 0o777), write("foobar", "foobar\n", 0o777)])
    told.tell([remove("foobar")], [], [write("new")])


@both
def test_a_file_of_a_lower_layer_is_moved_once_and_wholly(story: Tell) -> None:
    told = story(
        base=[
            *(mkdir("dir1", 0o700), write("dir1/f1", "Hello")),
            *(mkdir("dir2", 0o700), write("dir2/f2", "...")),
        ]
    )
    told.tell(
        [
            *(mkdir("dir3", 0o700), write("dir3/f1", "Hello"), remove("dir1")),
            *(link("dir2/f2", "dir3/f2"), remove("dir2/f2")),
        ]
    )


@both
def test_files_are_renamed_onto_each_other(story: Tell) -> None:
    told = story(
        base=[
            mkdir("somefiles", 0o700),
            write("somefiles/f1", "was here first!"),
            write("somefiles/f2", "nothing interesting"),
        ]
    )
    told.tell(
        [
            write("somefiles/f1-overwrite", "new content 1"),
            rename("somefiles/f1-overwrite", "somefiles/f1"),
            rename("somefiles/f2", "somefiles/f3"),
        ]
    )


@both
def test_a_directory_of_a_layer_is_moved_by_copying(story: Tell) -> None:
    told = story(base=[mkdir("dir1", 0o700), write("dir1/file", "content")])
    with pytest.raises(OSError, match="cross-device") as refused:
        rename("dir1", "dir2")(told.sandbox.merged)
    assert refused.value.errno == errno.EXDEV
    told.tell([move("dir1", "dir2")], [mkdir("dir3"), rename("dir3", "dir1")])


@pytest.mark.slow
def test_128_layers_are_one_tree(story: Tell) -> None:
    told = story(
        base=[
            write("bottom", "way at the bottom\n", 0o777),
            write("overwriteme", "FIRST!\n", 0o777),
            mkdir("addhere"),
            mkdir("onlyme"),
            write("onlyme/bottom", "bye!\n", 0o777),
        ]
    )
    revs = []
    for number in range(1, LAYERS):
        told.edit(*layer(number))
        revs.append(told.checkpoint())
    for rev in (revs[0], revs[63], revs[-1], "base", revs[-1]):
        told.rollback(rev, discard=True)
    told.sandbox.down()
    told.sandbox.up()
    told.agree()


def layer(number: int) -> list[Edit]:
    return [
        write("overwriteme", f"{number} WAS HERE!\n", 0o777),
        write(f"addhere/file-{number}", "same\n", 0o755),
        *(remove("onlyme"), mkdir("onlyme")),
        write(f"onlyme/file-{number}", "only me!\n", 0o777),
    ]
