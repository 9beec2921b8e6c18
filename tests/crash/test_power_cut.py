"""The power is cut at random instants: what was durable is whole, and the next start works."""

from __future__ import annotations

import json
import os
import random
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from envstack.client import RemoteError
from envstack.environment.steps import Step
from tests.crash.crashbox import UP
from tests.crash.daemon import PAUSE, Order
from tests.crash.power import Machine
from tests.crash.promises import check_tree
from tests.support import waiting
from tests.support.edits import apply, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.crashbox import Crashbox
    from tests.crash.nursery import Nursery
    from tests.support.ground import Ground

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

KINDS = ("ext4", "xfs", "btrfs")
ALL = os.environ.get("ENVSTACK_CRASH") == "all"
CUTS = 40 if ALL else 6
_LONGEST_PAUSE = 0.5
_WITHIN = 20.0
_HOLDING = 0.3
"""How often the worker begins, or ends, to hold what keeps layers from being sealed."""


@pytest.fixture(params=KINDS)
def machine(request: pytest.FixtureRequest, ground: Ground, nursery: Nursery) -> Iterator[Machine]:
    """A machine that is up, the environment with it."""
    with Machine(request.param, ground, nursery) as made:
        made.box.up()
        yield made


@contextmanager
def unsealable(box: Crashbox) -> Iterator[None]:
    """Hold an unlinked file: the superblock's lock, which flushes all that is written, waits."""
    path = box.merged / "held"
    path.touch()
    with path.open("rb"):
        path.unlink()
        yield


@dataclass
class Session:
    """Somebody who works in the merged tree, and notes what he was told is durable."""

    box: Crashbox
    chance: random.Random
    durable: set[str] = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        """Edit, checkpoint and roll back until told to end."""
        with ExitStack() as held:
            while not self.ended.is_set():
                for _ in range(self.chance.randrange(6)):
                    self._edit()
                if self.chance.random() < _HOLDING:
                    held.enter_context(unsealable(self.box))
                self._step()
                self.durable.update(row["id"] for row in self.box.log() if row["durable"])
                if self.chance.random() < _HOLDING:
                    held.close()

    def _edit(self) -> None:
        merged = self.box.merged
        files = sorted(path for path in merged.rglob("*") if path.is_file())
        fresh = merged / f"file{self.chance.randrange(1000)}"
        content = self.chance.randbytes(self.chance.choice([0, 10, 5000, 200_000]))
        match self.chance.choice(["write", "write", "append", "rename", "remove", "directory"]):
            case "write":
                fresh.write_bytes(content)
            case "append" if files:
                with self.chance.choice(files).open("ab") as file:
                    file.write(content)
            case "rename" if files:
                self.chance.choice(files).rename(fresh)
            case "remove" if files:
                self.chance.choice(files).unlink()
            case "directory":
                place = merged / f"directory{self.chance.randrange(1000)}"
                place.mkdir(exist_ok=True)
                (place / "inner").write_bytes(content)

    def _step(self) -> None:
        box, known = self.box, self.box.known
        tree = box.shown()
        match self.chance.choice(["checkpoint", "checkpoint", "sync", "sync", "rollback"]):
            case "checkpoint":
                known[box.checkpoint(tag=f"t{len(known)}")["id"]] = tree
            case "sync":
                made = box.checkpoint("with --sync", sync=True)
                assert made["durable"]
                known[made["id"]] = tree
                self.durable.add(made["id"])
            case "rollback":
                back = box.rollback(self.chance.choice(list(known)))
                if back["saved"]:
                    known[back["saved"]] = tree


@dataclass(frozen=True)
class Cut:
    """A disk as the cut left it, and which checkpoints had been told to be durable before."""

    disk: Path
    durable: frozenset[str]


@pytest.mark.parametrize("seed", range(3 if ALL else 1))
def test_what_was_durable_is_whole_after_a_power_cut(machine: Machine, seed: int) -> None:
    session = Session(machine.box, random.Random(seed))
    pauses = random.Random(seed + 1)
    cuts: list[Cut] = []
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(session.work)
        try:
            while len(cuts) < CUTS and not working.done():
                session.ended.wait(pauses.uniform(0, _LONGEST_PAUSE))
                durable = frozenset(session.durable)
                cuts.append(Cut(machine.cut(), durable))
        finally:
            session.ended.set()
        working.result(_WITHIN)
    known = dict(machine.box.known)
    for cut in cuts:
        machine.box.known = dict(known)
        try:
            check(machine, cut)
        except (AssertionError, RemoteError) as failure:
            failure.add_note(f"after {cut.disk.name}, with {len(cut.durable)} durable checkpoints")
            raise
    assert cuts[-1].durable, "nothing was ever durable"


def check(machine: Machine, cut: Cut) -> None:
    """Start on the disk, and see that it works and holds what was promised."""
    box = machine.box
    assert machine.boot(cut.disk) == {"ready": True}
    assert box.state() == UP
    rows = {row["id"]: row for row in box.log()}
    assert cut.durable <= rows.keys()
    assert [row for row in rows.values() if row["id"] in cut.durable and row["damaged"]] == []
    for record in (box.home / "layers").glob("*/layer.json"):
        json.loads(record.read_bytes())
    for rev in sorted(cut.durable):
        box.rollback(rev)
        check_tree(box, [box.known[rev]])
    for row in rows.values():
        if row["damaged"]:
            check_damaged(box, row["id"])
    check_going_on(box)


def check_damaged(box: Crashbox, rev: str) -> None:
    """See that a damaged checkpoint is gone back to by force alone."""
    with pytest.raises(RemoteError) as told:
        box.rollback(rev)
    assert (told.value.kind, told.value.exit_code) == ("damaged", 6)
    assert "the machine went down" in told.value.message
    assert box.rollback(rev, force=True)["to"] == rev


def check_going_on(box: Crashbox) -> None:
    """See that life goes on, with nothing lost and nothing found that nobody knows."""
    apply(box.merged, write("after the cut", "and on\n"))
    tree = box.shown()
    made = box.checkpoint("going on", sync=True)
    assert (made["durable"], made["damaged"]) == (True, False)
    box.rollback("base")
    check_tree(box, [box.known["base"]])
    box.rollback(made["id"])
    check_tree(box, [tree])
    box.books.wait_until_in_order()
    said = (box.home / "daemon.log").read_text(errors="replace").splitlines()
    assert [line for line in said if " ERROR " in line and ": damage: " not in line] == []


@pytest.mark.parametrize("way", ["sync", "in the background", "sync of nothing"])
def test_what_is_told_to_be_durable_is_on_the_disk_at_that_instant(
    machine: Machine, way: str
) -> None:
    box = machine.box
    apply(box.merged, write("large", "x" * 100_000), write("small", "x"))
    tree = box.shown()
    with unsealable(box):
        made = box.checkpoint(sync=way == "sync")["id"]
        if way == "sync of nothing":
            made = box.checkpoint(sync=True)["id"]
        waiting.until(lambda: bool(box.log()[0]["durable"]), "durability", _WITHIN)
        disk = machine.cut()
    box.known[made] = tree
    check(machine, Cut(disk, frozenset({made})))


CASES = {
    Step.SUM: "before anybody knew that it is whole",
    Step.SYNC: "entries with",
}


@pytest.mark.parametrize("step", CASES)
def test_what_was_not_durable_is_damaged_where_the_cut_took_part_of_it(
    machine: Machine, step: Step
) -> None:
    box = machine.box
    apply(box.merged, write("first"))
    first = box.checkpoint("first", sync=True)["id"]
    apply(box.merged, write("large", "x" * 100_000))
    with unsealable(box):
        box.orders.give(Order(PAUSE, step))
        lost = box.checkpoint("lost")
        waiting.until(lambda: step in box.orders.seen(), f"a pause before {step}")
        above = box.checkpoint("on top of it")
        assert not any(row["durable"] for row in box.log() if row["id"] != first)
        disk = machine.cut()
    assert machine.boot(disk) == {"ready": True}
    assert stat.S_IMODE(box.merged.stat().st_mode) == 0o755, "the root is dressed"
    told: dict[str, Any] = {row["id"]: (row["durable"], row["damaged"]) for row in box.log()}
    assert told == {first: (True, False), lost["id"]: (False, True), above["id"]: (False, True)}
    for rev in (lost["id"], above["id"]):
        with pytest.raises(RemoteError, match=CASES[step]):
            box.rollback(rev)
        check_damaged(box, rev)
    box.checkpoint("the state is what it is", sync=True)
    check_going_on(box)
