"""What is started in an environment stands still for a checkpoint, in whichever way it can be."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from envstack.environment.groups import family_of
from envstack.linux import cgroup
from envstack.model import CheckpointId
from tests.environment.harness import refused
from tests.support import needs, waiting, ways
from tests.support.freezing import KINDS, allow_only, writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.environment.harness import Engine

pytestmark = pytest.mark.kernel

PAIRS = 50
ROUNDS = 3

JOIN = """
import sys
if len(sys.argv) > 1:
    open(sys.argv[1], "w").write("0")
"""

WRITER = writer(PAIRS)


@pytest.fixture
def way() -> str:
    """One way of mounting will do."""
    return needs.way(ways.NEWER)


@pytest.fixture(params=KINDS, ids=bytes.decode)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Groups are made in this way alone."""
    return allow_only(request.param, monkeypatch)


def enter(engine: Engine) -> dict[str, Any]:
    row: dict[str, Any] = engine.call("env.enter", stack=str(engine.stack))
    return row


@contextmanager
def started(engine: Engine, code: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python code in the merged tree as `run` does; it prints a line when it is ready."""
    row = enter(engine)
    with subprocess.Popen(
        [sys.executable, "-c", JOIN + code, *([row["group"]] if row["group"] else [])],
        cwd=engine.merged,
        env={**os.environ, **row["env"]},
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def written(engine: Engine, checkpoint: str) -> list[int]:
    """Return what the files of a checkpoint hold, in the order in which they are written."""
    store = engine.context.store
    layers = store.trees(store.db.checkpoint(CheckpointId(checkpoint)).chain)
    names = [f"{name}{number}" for number in range(PAIRS) for name in ("first", "second")]
    return [int(topmost(layers, os.fsencode(name)).read_text()) for name in names]


def goes_on(file: Path) -> None:
    before = file.read_text()
    waiting.until(lambda: file.read_text() != before, "a command that goes on")


def topmost(layers: Sequence[bytes], name: bytes) -> Path:
    paths = (Path(os.fsdecode(os.path.join(layer, name))) for layer in layers)
    return next(path for path in paths if path.exists())


def test_a_live_checkpoint_under_it_is_one_instant(engine: Engine, kind: bytes) -> None:
    with started(engine, WRITER) as writer:
        for _ in range(ROUNDS):
            made = engine.checkpoint(mode="live")
            values = written(engine, made["id"])
            assert values == sorted(values, reverse=True)
            assert values[0] - values[-1] <= 1
            assert writer.poll() is None
            goes_on(engine.merged / "first0")


def test_only_who_was_started_in_it_stands_still(engine: Engine, kind: bytes) -> None:
    with engine.context.freeze(the(engine)) as whole:
        assert not whole, "nobody was"
    sleeper = started(engine, "import time; print(flush=True); time.sleep(1000)")
    with sleeper, engine.context.freeze(the(engine)) as whole:
        assert whole
        assert enter(engine)["name"] == "sandbox", "who asks goes on"


def the(engine: Engine) -> Any:
    return engine.context.store.db.environments()[0].id


def test_a_plain_tree_is_told_with_the_stacks_variables(engine: Engine) -> None:
    row = enter(engine)
    assert (row["root"], row["mount"]) == (False, str(engine.merged))
    assert row["env"] == {"ENVSTACK_ENV": "sandbox", "ENVSTACK_MOUNT": str(engine.merged)}


def test_a_tree_is_a_root_file_system_by_its_shell(engine: Engine) -> None:
    shell = engine.merged / "usr/bin/sh"
    shell.parent.mkdir(parents=True)
    (engine.merged / "bin").symlink_to("/usr/bin")
    assert not enter(engine)["root"]
    shell.symlink_to("/bin/busybox")
    assert not enter(engine)["root"], "a link to what is not in the tree"
    (shell.parent / "busybox").touch()
    assert not enter(engine)["root"], "nobody can execute it"
    (shell.parent / "busybox").chmod(0o755)
    row = enter(engine)
    assert (row["root"], row["env"]["ENVSTACK_MOUNT"]) == (True, "/")


def test_nobody_enters_what_is_down(engine: Engine) -> None:
    assert engine.call("env.enter", stack=str(engine.stack))["group"]
    engine.down()
    assert list(cgroup.find(family_of(os.fsencode(engine.home)))) == []
    with refused(4, "not-up"):
        enter(engine)
