"""A rebuild that fails, or that meets writers and other environments, loses nothing."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING

import pytest

from envstack.environment.steps import Step
from envstack.errors import EnvstackError
from envstack.model import LayerState
from envstack.store.database import Database
from tests.environment.harness import Bystander, Engine, refused
from tests.environment.test_settling import full_disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from envstack.model import LayerId

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("is_full", [False, True])
def test_a_rebuild_whose_commit_failed_keeps_the_layers_it_was_built_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    (engine.project / "more").mkdir()
    (engine.project / "more/file").write_text("more\n")
    layers = [
        {"name": "base", "dir": "base"},
        {"name": "more", "dir": "more"},
        {"name": "made", "run": "date > made"},
    ]
    engine.declare({"layers": layers})
    engine.call("trust.add", stack=str(engine.stack))
    with monkeypatch.context() as full, full_disk(monkeypatch), refused(1):
        full.setattr(Database, "is_short_of_space", is_full)
        engine.up(rebuild="")
    engine.write("late")
    engine.log()
    engine.settle()
    expected = ["dir", "file", "known", "late", "made"]
    assert sorted(os.listdir(engine.merged)) == expected
    assert [row["name"] for row in engine.status()["layers"]] == ["base", "more", "made"]
    engine.down()
    engine.up()
    assert sorted(os.listdir(engine.merged)) == expected


def test_what_is_written_during_a_rebuild_is_saved(engine: Engine) -> None:
    engine.at[Step.REGISTER] = lambda: engine.write("late", "late\n")
    answer = engine.up(rebuild="")
    engine.at.clear()
    assert answer["saved"]
    engine.settle()
    engine.rollback(answer["saved"])
    assert (engine.merged / "late").read_text() == "late\n"


def test_a_layer_of_an_up_that_is_under_way_is_nobody_elses(
    make_engine: Callable[..., Engine], directory: Callable[[], Path]
) -> None:
    """Two stack files that were never up copy the same directory."""
    engine = make_engine(base=[])
    (engine.project / "shared").mkdir()
    (engine.project / "shared/file").write_text("shared\n")
    copied = {"name": "shared", "dir": "shared", "copy": True}
    gate = directory() / "gate"
    os.mkfifo(gate)
    engine.declare({"layers": [copied, {"name": "slow", "run": f"cat {gate} > slow"}]})
    other = engine.project / "other.yaml"
    declared = {"version": 1, "name": "other", "mount": ".envstack/other", "layers": [copied]}
    other.write_text(json.dumps(declared))

    def bring() -> None:
        with refused(4) as refusal:
            engine.call("env.up", stack=str(engine.stack), trust=True)
        refusals.append(refusal.hint)

    refusals: list[str] = []
    engine.start()
    building = threading.Thread(target=bring)
    building.start()
    with open(gate, "w") as opened:
        engine.call("env.up", stack=str(other))
        opened.write("slow\n")
    building.join()
    assert refusals == ["try again"]
    engine.call("env.up", stack=str(engine.stack), trust=True)
    engine.call("env.down", stack=str(other), purge=True)
    engine.settle()
    assert sorted(os.listdir(engine.merged)) == ["file", "slow"]
    engine.down()
    engine.up()
    assert (engine.merged / "file").read_text() == "shared\n"


def test_a_rebuild_strands_nobody_on_a_mount_that_was_taken_away(
    engine: Engine, bystander: Callable[[], Bystander], run: Callable[..., None]
) -> None:
    somebody = bystander()
    somebody.do("os.chdir(T)")
    engine.stop()
    run("umount", "-l", engine.merged)
    engine.start()
    with refused(4) as refusal:
        engine.up(rebuild="")
    assert "still use the upper" in refusal.message
    somebody.do("open('late', 'w').write('late')")
    somebody.close()
    engine.up(rebuild="")
    engine.rollback(engine.log()[0]["id"])
    assert (engine.merged / "late").read_text() == "late"


@pytest.mark.parametrize("is_up", [True, False])
def test_a_disk_that_fills_up_behind_a_rebuild_takes_nothing_from_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, is_up: bool
) -> None:
    engine.declare({"layers": [{"name": "base", "dir": "base", "copy": True}]})
    engine.up(rebuild="")
    if not is_up:
        engine.down()
    set_state = Database.set_layer_state

    def set_layer_state(self: Database, layer: LayerId, state: LayerState) -> None:
        if state is LayerState.DISCARDED:
            raise EnvstackError("full")
        set_state(self, layer, state)

    with monkeypatch.context() as full:
        full.setattr(Database, "set_layer_state", set_layer_state)
        full.setattr(Database, "is_short_of_space", True)
        engine.up(rebuild="")
        engine.settle()
    assert sorted(os.listdir(engine.merged)) == ["dir", "known"]
    engine.down()
    engine.up()
    engine.settle()
    kinds = [layer.kind for layer in engine.context.store.db.layers()]
    assert sorted(kinds) == ["copy", "upper", "upper"], "the next up lets go of what is spent"
