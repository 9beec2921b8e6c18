"""What is new is looked at once more when it is known to be watched."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from envstack.feed.hints import Gathering, Touch
from envstack.feed.lookout import Lookout
from envstack.feed.notifier import Notifier
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.kernel


class Post:
    """A lookout at `upper`, whose notifier may be held to be at work still."""

    def __init__(self, upper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gathering = Gathering()
        self.lookout = Lookout(os.fsencode(upper), self.gathering)
        self.is_working = False
        is_settled = Notifier.is_settled
        monkeypatch.setattr(
            Notifier, "is_settled", lambda each: not self.is_working and is_settled(each)
        )
        self.lookout.gather()
        self.gathering.everything()

    def await_hint(self, path: bytes) -> Mapping[bytes, Touch]:
        """Gather until there is a hint at `path`; return all that came with it."""
        told: dict[bytes, Touch] = {}

        def is_told() -> bool:
            self.lookout.gather()
            told.update(self.gathering.touched().touched)
            return path in told

        until(is_told, f"a hint at {path!r}")
        return told


@pytest.fixture
def post(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    (project / "old" / "inner").mkdir(parents=True)
    made = Post(project, monkeypatch)
    yield made
    made.lookout.close()
    while signal.sigtimedwait({signal.SIGIO}, 0):
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_it_is_behind_as_long_as_something_is_about_to_be_told(post: Post, project: Path) -> None:
    (project / "file").touch()
    post.is_working = True
    post.await_hint(b"file")
    assert post.lookout.is_behind
    post.is_working = False
    until(lambda: not post.lookout.gather() and not post.lookout.is_behind, "the end of it")


def test_a_new_directory_is_hinted_at_once_more_when_it_is_watched(
    post: Post, project: Path
) -> None:
    post.is_working = True
    (project / "new").mkdir()
    assert post.await_hint(b"new")[b"new"] is Touch.TREE
    post.is_working = False
    assert post.await_hint(b"new") == {b"new": Touch.TREE}


def test_a_directory_that_was_found_by_comparing_is_hinted_at_too(
    post: Post, project: Path
) -> None:
    post.lookout.found([])
    post.lookout.found([(b"old/inner", (project / "old" / "inner").stat().st_ino)])
    assert post.await_hint(b"old/inner") == {b"old/inner": Touch.TREE}


def test_so_is_one_that_went_and_came_back(post: Post, project: Path) -> None:
    post.is_working = True
    (project / "old").rename(project / "new")
    (project / "new").rename(project / "old")
    post.await_hint(b"old")
    post.is_working = False
    assert post.await_hint(b"old") == {b"old": Touch.TREE}


def test_what_was_there_when_the_watch_began_is_not(post: Post, project: Path) -> None:
    old = project / "old"
    post.lookout.found([(b"old", old.stat().st_ino), (b"old/inner", os.stat(old / "inner").st_ino)])
    (project / "last").touch()
    assert set(post.await_hint(b"last")) == {b"last"}


def test_a_new_directory_that_is_gone_is_forgotten(post: Post, project: Path) -> None:
    (project / "new").mkdir()
    post.await_hint(b"new")
    post.is_working = True
    (project / "brief").mkdir()
    post.await_hint(b"brief")
    (project / "brief").rmdir()
    post.is_working = False
    until(lambda: not post.lookout.gather() and post.lookout.due == float("inf"), "nothing due")
    assert not post.gathering.is_doubtful
