"""The feed of one environment: what is told in pieces, under fire, and by books that are older."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from envstack.feed import wish
from envstack.store.store import Store
from tests.feed.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Iterator
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
