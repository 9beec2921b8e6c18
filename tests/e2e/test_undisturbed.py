"""Real programs live in the merged tree, and notice neither checkpoints nor rollbacks.

`ENVSTACK_MODEL=long` takes hundreds of them instead of some dozens.
"""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import chains, needs, trees, waiting, ways
from tests.support.edits import mkdir, write
from tests.support.household import Household
from tests.support.inotify import limits_as_they_are
from tests.support.profiles import IS_LONG
from tests.support.residents import Logger, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.sandbox import Sandbox

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).resolve().parents[2]

_MANY = 400 if IS_LONG else 50
_SOME = 100 if IS_LONG else 12

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


@pytest.fixture(autouse=True)
def undisturbed_limits() -> Iterator[None]:
    """Programs that watch find room for their watches."""
    with limits_as_they_are():
        yield


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


_PAIR = """
import os, sqlite3, sys
first, second = (os.open(name, os.O_RDWR | os.O_CREAT) for name in ("first", "second"))
db = sqlite3.connect("busy.db", isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA synchronous=OFF")
db.execute("PRAGMA wal_autocheckpoint=20")
db.execute("CREATE TABLE t (n)")
number = 0
while True:
    number += 1
    os.pwrite(first, b"%012d" % number, 0)
    os.pwrite(second, b"%012d" % number, 0)
    db.execute("INSERT INTO t VALUES (hex(randomblob(500)))")
    if number == 1:
        print("begun", flush=True)
"""


@pytest.fixture
def busy(up: Sandbox) -> Iterator[subprocess.Popen[bytes]]:
    """A process by `envstack run` that writes to three files all the time, one after the other."""
    command = (sys.executable, "-m", "envstack", "run", sys.executable, "-c", _PAIR)
    environ = {**os.environ, "ENVSTACK_HOME": str(up.home), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=up.merged / "data", env=environ, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            yield process
        finally:
            process.kill()


def test_what_was_started_by_run_is_sealed_at_one_instant(
    up: Sandbox, busy: subprocess.Popen[bytes], directory: Callable[[], Path]
) -> None:
    rows, place = 0, directory()
    for _ in range(_SOME):
        answer = up.checkpoint()
        assert (answer["mode"], answer["unstable"]) == ("live", [])
        with chains.mounted(up.home, answer["id"]) as tree:
            first, second = (
                int((tree / "data" / name).read_bytes()) for name in ("first", "second")
            )
            before, rows = rows, rows_of(tree / "data", "busy.db", place)
        assert first - second in (0, 1)
        assert second - 1 <= rows <= second
        assert rows > before, "it went on"
    assert busy.poll() is None


def test_what_was_started_by_run_is_rolled_back_at_one_instant(
    up: Sandbox, busy: subprocess.Popen[bytes]
) -> None:
    """Files that belong together are those of the target, all of them, however busy they are."""
    data = up.merged / "data"
    rev = up.checkpoint()["id"]
    waiting.until(lambda: up.diff() != [], "something written since")
    answer = up.rollback(rev)
    assert (answer["mode"], answer["late"]) == ("in-place", [])
    with chains.mounted(up.home, rev) as tree:
        assert trees.differences(trees.snapshot(data), trees.snapshot(tree / "data")) == []
    assert [row["pid"] for row in answer["orphaned"]] == [busy.pid]
    assert busy.poll() is None


@pytest.mark.parametrize("mode", ["auto", "in-place"])
def test_who_appends_to_a_log_that_a_rollback_replaces_is_named(up: Sandbox, mode: str) -> None:
    logger = Logger(up.merged / "data/log")
    try:
        logger.work()
        rev = up.checkpoint()["id"]
        logger.work()
        answer = up.rollback(rev, mode=mode, discard=True)
        assert (answer["mode"], answer["late"]) == ("in-place", [])
        (orphan,) = answer["orphaned"]
        assert orphan["pid"] == logger.pid
        assert [hold["what"] for hold in orphan["holds"]] == ["writing"]
        with chains.mounted(up.home, rev) as tree:
            sealed = (tree / "data/log").read_bytes()
        assert logger.path.read_bytes() == sealed
        logger.reopen(sealed)
        logger.work()
        logger.end()
    finally:
        logger.kill()


def test_a_log_that_is_written_all_the_time_loses_no_line_by_a_rollback(up: Sandbox) -> None:
    """It is replaced and what was in it is sealed, or it is left alone and told."""
    logger = Logger(up.merged / "data/log")
    try:
        up.checkpoint(tag="first")
        logger.work()
        before = logger.read()
        answer = up.rollback("first")
        with chains.mounted(up.home, answer["saved"]) as tree:
            saved = (tree / "data/log").read_bytes()
        assert saved.startswith(before)
        logger.check(saved)
        if answer["late"] == [{"path": "data/log"}]:
            logger.work()
            logger.end()
        else:
            assert [row["pid"] for row in answer["orphaned"]] == [logger.pid]
    finally:
        logger.kill()
