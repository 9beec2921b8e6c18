"""Real programs live in the merged tree, and notice neither checkpoints nor rollbacks.

`ENVSTACK_MODEL=long` takes hundreds of them instead of some dozens.
"""

from __future__ import annotations

import random
import secrets
from typing import TYPE_CHECKING

import pytest

from tests.support import needs, ways
from tests.support.edits import mkdir, write
from tests.support.household import Household
from tests.support.profiles import IS_LONG

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.sandbox import Sandbox

pytestmark = pytest.mark.kernel

_MANY = 400 if IS_LONG else 40
_SOME = 60 if IS_LONG else 12

TREE = [
    mkdir("deep"),
    write("deep/above", "from above\n"),
    *(mkdir(name) for name in ("deep/er", "deep/er/est", "data", "map", "web", "src", "quiet")),
    *(mkdir(f"src/part{number}") for number in range(3)),
    *(write(f"web/{page}", f"{page} 0 end") for page in ("one", "two", "three")),
    write("src/part0/read", "as it was\n"),
    write("notes", "saved\n"),
]


@pytest.fixture(params=[ways.NEWER])
def way(request: pytest.FixtureRequest) -> str:
    """One way of mounting: with somebody inside nothing is mounted."""
    return needs.way(request.param)


@pytest.fixture
def up(sandbox: Callable[..., Sandbox]) -> Sandbox:
    made = sandbox(base=TREE)
    made.up()
    return made


@pytest.mark.slow
def test_nobody_notices_checkpoints_and_rollbacks(
    up: Sandbox, directory: Callable[[], Path]
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # shown where it fails
    chance = random.Random(seed)
    with Household(up, directory(), chance) as household:
        household.live_on()
        household.checkpoint("auto")
        for _ in range(_MANY):
            household.live_on()
            if chance.random() < 0.65:
                household.checkpoint(chance.choice(["auto", "live"]))
            else:
                mode = chance.choice(["auto", "in-place"])
                household.roll_back(mode, discard=chance.random() < 0.3)
        household.look_at_all_again()
        household.end()
