"""When a checkpoint would outlive a power cut, and what is said of one that did not."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn

import pytest

from envstack.environment.steps import Step
from envstack.errors import Damaged
from envstack.linux import syscalls
from tests.environment.harness import WITHIN, another_boot, refused
from tests.support import trees
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.environment.harness import Engine

pytestmark = pytest.mark.kernel


def never() -> NoReturn:
    """Keep a step of the background from being taken: the job is given up."""
    raise Damaged("not in this test")


def at_risk(engine: Engine, step: Step, name: str) -> str:
    """Write a file, and return a checkpoint that came no farther than `step`."""
    tried = threading.Event()

    def refuse() -> NoReturn:
        tried.set()
        never()

    engine.at[step] = refuse
    engine.write(name)
    made: str = engine.checkpoint()["id"]
    assert tried.wait(WITHIN)
    return made


def power_off(engine: Engine) -> None:
    """Take away what does not outlive the machine."""
    engine.stop()
    syscalls.umount(os.fsencode(engine.merged), syscalls.MNT_DETACH)
    engine.at.clear()


def verdicts(engine: Engine) -> dict[str, tuple[bool, bool]]:
    """Return what `log` says of each checkpoint: durable, damaged."""
    return {row["id"]: (row["durable"], row["damaged"]) for row in engine.log()}


def test_a_checkpoint_becomes_durable_in_the_background(engine: Engine) -> None:
    engine.write("file")
    made = engine.checkpoint()
    assert (made["durable"], made["damaged"]) == (False, False)
    until(lambda: engine.row(made["id"])["durable"], "durability", WITHIN)


def test_with_sync_it_is_durable_when_the_answer_comes(engine: Engine) -> None:
    flushed = []
    engine.at[Step.SYNC] = lambda: flushed.append(1)
    engine.write("file")
    made = engine.checkpoint(sync=True)
    assert made["durable"]
    assert flushed
    assert engine.row(made["id"])["durable"]


def test_what_a_rollback_saves_becomes_durable_too(engine: Engine) -> None:
    engine.write("file")
    saved = engine.rollback("base")["saved"]
    until(lambda: engine.row(saved)["durable"], "durability", WITHIN)


def test_a_checkpoint_of_nothing_is_as_durable_as_what_it_stands_on(engine: Engine) -> None:
    assert engine.checkpoint()["durable"], "it stands on the stack alone"
    engine.at[Step.SYNC] = never
    engine.write("file")
    engine.checkpoint()
    mark = engine.checkpoint()
    assert not mark["durable"]
    engine.at.clear()
    assert engine.checkpoint(sync=True)["durable"]
    assert {row["durable"] for row in engine.log()} == {True}


def test_the_environment_can_be_used_while_a_checkpoint_is_synced(engine: Engine) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go_on.wait(WITHIN)

    engine.at[Step.SYNC] = wait
    engine.write("file")
    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(engine.checkpoint, "synced", sync=True)
        try:
            assert begun.wait(WITHIN)
            engine.write("other")
            second = engine.checkpoint("second")["id"]
            assert engine.rollback("base")["to"] == "base"
            assert verdicts(engine)[second] == (False, False)
        finally:
            go_on.set()
        assert synced.result(WITHIN)["durable"]
    engine.at.clear()
    until(lambda: engine.row(second)["durable"], "durability of what came later", WITHIN)


def test_one_flush_serves_all_that_was_sealed_before_it(engine: Engine) -> None:
    for number in range(5):
        at_risk(engine, Step.SUM, f"file{number}")
    flushed: list[int] = []
    engine.at = {Step.SYNC: lambda: flushed.append(1)}
    engine.write("last")
    engine.checkpoint(sync=True)
    assert {row["durable"] for row in engine.log()} == {True}
    engine.settle()
    assert len(flushed) == 1


@pytest.mark.parametrize("step", [Step.SUM, Step.SYNC])
def test_the_next_daemon_of_the_same_boot_goes_on_and_judges_nothing(
    engine: Engine, step: Step
) -> None:
    made = at_risk(engine, step, "file")
    layer = engine.layer_of(made)
    power_off(engine)
    (layer / "file").write_text("changed by hand")
    engine.start()
    until(lambda: engine.row(made)["durable"], "durability", WITHIN)
    assert not engine.row(made)["damaged"]


def test_what_holds_what_it_held_before_the_machine_went_down_is_whole(
    engine: Engine, project: Path
) -> None:
    made = at_risk(engine, Step.SYNC, "file")
    power_off(engine)
    with another_boot(project):
        engine.start()
        until(lambda: engine.row(made)["durable"], "durability", WITHIN)
        engine.rollback(made)
        assert (engine.merged / "file").read_text() == "written\n"
        engine.stop()
    engine.start()
    assert verdicts(engine) == {made: (True, False)}


HARM: dict[str, Callable[[Path], object]] = {
    "2 entries with 8 bytes are there": lambda tree: (tree / "extra").touch(),
    "0 entries with 0 bytes are there": lambda tree: (tree / "file").unlink(),
    "1 entries with 0 bytes are there": lambda tree: os.truncate(tree / "file", 0),
    "cannot be read: No such file": trees.remove,
    "the root of layer": lambda tree: os.removexattr(tree, "trusted.overlay.envstack.dressed"),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_lost_something_is_damaged_and_gone_back_to_by_force_alone(
    engine: Engine, project: Path, harm: str
) -> None:
    engine.write("first")
    first = engine.checkpoint(sync=True)["id"]
    made = at_risk(engine, Step.SYNC, "file")
    layer = engine.layer_of(made)
    power_off(engine)
    HARM[harm](layer)
    with another_boot(project):
        engine.start()
        assert verdicts(engine) == {first: (True, False), made: (False, True)}
        if layer.exists():
            with refused(6, "damaged") as refusal:
                engine.rollback(made)
            assert harm in refusal.message
            assert made in refusal.message
            assert engine.rollback(made, dry_run=True)["to"] == made
            assert engine.rollback(made, force=True)["to"] == made
        engine.stop()
    engine.start()
    assert verdicts(engine)[made] == (False, True), "once damaged, always damaged"
    if layer.exists():
        engine.rollback(first)


def test_what_nobody_had_measured_counts_as_damaged(engine: Engine, project: Path) -> None:
    made = at_risk(engine, Step.SUM, "file")
    power_off(engine)
    with another_boot(project):
        with refused(6, "damaged") as refusal:
            engine.rollback(made)
        assert "before anybody knew that it is whole" in refusal.message
        engine.stop()


def test_what_stood_on_a_damaged_layer_is_damaged_and_what_is_sealed_afterwards_is_not(
    engine: Engine, project: Path
) -> None:
    lower = at_risk(engine, Step.SYNC, "file")
    mark = engine.checkpoint()["id"]
    engine.write("file2")
    upper = engine.checkpoint()["id"]
    layer = engine.layer_of(lower)
    power_off(engine)
    (layer / "file").unlink()
    with another_boot(project):
        engine.start()
        assert set(verdicts(engine)) == {lower, mark, upper}
        assert all(damaged for _durable, damaged in verdicts(engine).values())
        engine.write("file", "made anew")
        fresh = engine.checkpoint(sync=True)
        assert (fresh["durable"], fresh["damaged"]) == (True, False)
        engine.rollback(fresh["id"])
        engine.stop()
    engine.start()
    assert verdicts(engine)[fresh["id"]] == (True, False)


def test_a_change_of_the_root_outlives_down_and_up_and_the_machine(
    engine: Engine, project: Path
) -> None:
    """Only a root that was never dressed is dressed anew, and not one without a file in it."""
    engine.merged.chmod(0o700)
    power_off(engine)
    with another_boot(project):
        engine.start()
        assert engine.merged.stat().st_mode & 0o777 == 0o700
        engine.stop()
