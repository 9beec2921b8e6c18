"""What a store is on disk, and how it is opened when it is not what it should be."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest

from envstack.errors import Damaged, EnvstackError, NotFound, StateError
from envstack.model import (
    AtRisk,
    Checkpoint,
    CheckpointId,
    Counts,
    EnvId,
    Environment,
    Extent,
    Layer,
    LayerId,
    LayerKind,
    LayerState,
)
from envstack.store.database import FORMAT
from envstack.store.layers import Layers
from envstack.store.records import Op, Transition, dump_transition, load_transition
from envstack.store.store import Store
from tests.support import trees

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = "2020-01-01T00:00:00.000000Z"
BASE = Layer(LayerId("1" * 16), LayerKind.DIR, LayerState.SEALED, "base", b"/\xff/base")
UPPER = Layer(LayerId("2" * 16), LayerKind.UPPER, LayerState.UPPER)
ENV = Environment(
    id=EnvId("a" * 16),
    name="näme\n",
    stack_path=b"/project \xff/envstack.yaml",
    project=b"/project \xff",
    mount=b"/project \xff/merged",
    stack="{}",
    base=(BASE.id,),
    upper=UPPER.id,
    lowers=(BASE.id,),
    head=None,
    wanted=True,
    created_at=NOW,
)
ROW = Checkpoint(
    id=CheckpointId("c" * 16),
    env=ENV.id,
    parent=None,
    message="a 'message'\n",
    tag="tag",
    created_at=NOW,
    mode="rotate",
    chain=(UPPER.id, BASE.id),
    changes=None,
)


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """A store with one environment that is up."""
    with Store(os.fsencode(home)) as made:
        for layer in (BASE, UPPER):
            made.db.add_layer(ENV.id, layer)
        made.db.begin(Transition(Op.UP, ENV))
        made.db.commit(Transition(Op.UP, ENV), NOW)
        yield made


def files(home: Path) -> dict[str, bytes]:
    """Return what lies in the store's directory: names, and the bytes of files."""
    return {path.name: path.read_bytes() if path.is_file() else b"" for path in home.iterdir()}


def test_a_new_store_is_closed_to_others(home: Path) -> None:
    with Store(os.fsencode(home)):
        assert home.stat().st_mode & 0o777 == 0o700
        assert {path.name for path in home.iterdir()} >= {"layers", "staging", "meta.db"}
    with closing(sqlite3.connect(home / "meta.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_was_committed_is_there_when_it_is_opened_again(store: Store, home: Path) -> None:
    store.db.close()
    with Store(os.fsencode(home)) as again:
        assert again.db.environments() == [ENV]
        assert again.db.chain(ENV.base) == [BASE]
        assert again.trees(ENV.base) == (b"/\xff/base",)


def test_a_newer_store_is_left_untouched(store: Store, home: Path) -> None:
    store.db.close()
    with closing(sqlite3.connect(home / "meta.db")) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    trees.remove(home / "staging")
    before = files(home)
    with pytest.raises(Damaged) as caught:
        Store(os.fsencode(home))
    assert f"format {FORMAT + 1}" in caught.value.message
    assert files(home) == before


def test_a_newer_store_whose_daemon_was_killed_is_left_untouched(store: Store, home: Path) -> None:
    """What it committed last is in the write-ahead log, and is its own to take over."""
    with closing(sqlite3.connect(home / "meta.db")) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
        killed = {name: data for name, data in files(home).items() if name.startswith("meta.db")}
    store.db.close()
    for name, data in killed.items():
        (home / name).write_bytes(data)
    assert killed["meta.db-wal"]
    with pytest.raises(Damaged) as caught:
        Store(os.fsencode(home))
    assert f"format {FORMAT + 1}" in caught.value.message
    assert (home / "meta.db").read_bytes() == killed["meta.db"]
    assert (home / "meta.db-wal").read_bytes() == killed["meta.db-wal"]


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "not a database": lambda data: b"this is no database at all" * 400,
    "the header overwritten": lambda data: bytes(100) + data[100:],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "all but the first page overwritten": lambda data: data[:4096] + b"\xa5" * (len(data) - 4096),
}


def read_all(home: Path) -> None:
    """Open the store and read what the daemon reads at its start."""
    with Store(os.fsencode(home)) as opened:
        opened.db.environments()
        opened.db.layers()


@pytest.mark.parametrize("how", GARBAGE)
def test_a_corrupt_database_is_damaged_and_left_as_it_is(
    store: Store, home: Path, how: str
) -> None:
    store.db.close()
    database = home / "meta.db"
    broken = GARBAGE[how](database.read_bytes())
    database.write_bytes(broken)
    with pytest.raises(Damaged) as caught:
        read_all(home)
    assert "database" in caught.value.message
    assert database.read_bytes() == broken


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_layers_without_their_database_are_left_where_they_are(
    store: Store, home: Path, left: str
) -> None:
    store.layers.make_upper(UPPER.id, {})
    store.db.close()
    for file in home.glob("meta.db*"):
        file.unlink()
    if left == "an empty file":
        (home / "meta.db").touch()
    with pytest.raises(Damaged):
        Store(os.fsencode(home))
    assert [entry.name for entry in (home / "layers").iterdir()] == [UPPER.id]


def test_a_database_that_cannot_be_opened_is_not_called_damaged(home: Path) -> None:
    home.mkdir()
    (home / "meta.db").mkdir()
    with pytest.raises(EnvstackError) as caught:
        Store(os.fsencode(home))
    assert not isinstance(caught.value, Damaged)


def test_a_transition_survives_being_written_down() -> None:
    states = {UPPER.id: LayerState.SEALING}
    for checkpoint in (None, ROW, replace(ROW, changes=Counts(1, 2, 3), tag=None)):
        transition = Transition(Op.ROLLBACK, ENV, states, checkpoint)
        assert load_transition(dump_transition(transition)) == transition


def test_an_environment_has_one_intent_at_a_time(store: Store) -> None:
    transition = Transition(Op.CHECKPOINT, ENV, {}, ROW)
    store.db.begin(transition)
    assert store.db.intent(ENV.id) == transition
    with pytest.raises(StateError):
        store.db.begin(transition)
    store.db.abandon(ENV.id, [UPPER.id])
    assert store.db.intent(ENV.id) is None
    assert store.db.checkpoints(ENV.id) == []
    layer = store.db.find_layer(UPPER.id)
    assert layer is not None
    assert layer.state is LayerState.DISCARDED


def test_a_commit_is_whole_or_has_not_happened(store: Store) -> None:
    transition = Transition(
        Op.CHECKPOINT, replace(ENV, head=ROW.id), {UPPER.id: LayerState.SEALING}, ROW
    )
    store.db.begin(transition)
    store.db.commit(transition, NOW)
    again = Transition(Op.CHECKPOINT, replace(ENV, head=None), {UPPER.id: LayerState.SEALED}, ROW)
    store.db.begin(again)
    with pytest.raises((EnvstackError, sqlite3.IntegrityError)):
        store.db.commit(again, NOW)
    assert store.db.environment(ENV.id).head == ROW.id
    assert store.db.intent(ENV.id) == again
    layer = store.db.find_layer(UPPER.id)
    assert layer is not None
    assert layer.state is LayerState.SEALING


@pytest.mark.parametrize("state", LayerState)
def test_a_checkpoint_is_sealed_when_its_topmost_layer_is(store: Store, state: LayerState) -> None:
    transition = Transition(Op.CHECKPOINT, replace(ENV, head=ROW.id), {UPPER.id: state}, ROW)
    store.db.begin(transition)
    store.db.commit(transition, NOW)
    (row,) = store.db.checkpoints(ENV.id)
    assert row == replace(ROW, sealed=state is LayerState.SEALED, durable=True)
    assert store.db.uncounted() == [row]
    store.db.set_counts(row.id, Counts(1, 2, 3))
    assert store.db.uncounted() == []
    assert store.db.checkpoints(ENV.id)[0].changes == Counts(1, 2, 3)


def test_what_is_sealed_is_at_risk_until_it_is_durable(store: Store) -> None:
    states = {UPPER.id: LayerState.SEALING}
    transition = Transition(Op.CHECKPOINT, replace(ENV, head=ROW.id), states, ROW, "this boot")
    store.db.begin(transition)
    assert store.db.intent(ENV.id) == transition
    store.db.commit(transition, NOW)
    assert store.risks.all() == [AtRisk(UPPER.id, "this boot", None)]
    store.risks.measured(UPPER.id, Extent(3, 1 << 40))
    assert store.risks.all() == [AtRisk(UPPER.id, "this boot", Extent(3, 1 << 40))]
    assert not store.db.checkpoint(ROW.id).durable
    store.risks.over([UPPER.id])
    assert store.risks.all() == []
    assert store.db.checkpoint(ROW.id).durable


def test_damage_is_of_every_checkpoint_on_the_layer(store: Store) -> None:
    other = replace(ROW, id=CheckpointId("d" * 16), tag=None, chain=(BASE.id,))
    above = replace(ROW, id=CheckpointId("e" * 16), tag=None, chain=(LayerId("f" * 16), *ROW.chain))
    for row in (ROW, other, above):
        store.db.commit(Transition(Op.CHECKPOINT, replace(ENV, head=row.id), {}, row), NOW)
    store.risks.condemn(UPPER.id, "it is gone")
    damage = {row.id: row.damage for row in store.db.checkpoints(ENV.id)}
    assert damage == {ROW.id: "it is gone", other.id: None, above.id: "it is gone"}
    assert {row.id for row in store.db.checkpoints(ENV.id) if row.durable} == {other.id}


def test_one_mount_point_belongs_to_one_environment(store: Store) -> None:
    other = replace(ENV, id=EnvId("b" * 16), stack_path=b"/other.yaml")
    with pytest.raises(StateError):
        store.db.begin(Transition(Op.UP, other))
    assert store.db.environments() == [ENV]
    assert store.db.intent(other.id) is None


def test_a_chain_with_an_unknown_layer_is_damaged(store: Store) -> None:
    with pytest.raises(Damaged) as caught:
        store.trees((LayerId("f" * 16), BASE.id))
    assert "f" * 16 in caught.value.message


def test_purging_forgets_all_and_leaves_layers_to_be_deleted(store: Store) -> None:
    store.db.purge(ENV.id)
    assert store.db.environments() == []
    assert {layer.state for layer in store.db.layers()} == {LayerState.DISCARDED}
    with pytest.raises(NotFound):
        store.db.environment(ENV.id)


@pytest.fixture
def layers(home: Path) -> Layers:
    return Layers(os.fsencode(home))


def test_a_built_layer_appears_whole_under_its_name(layers: Layers, home: Path) -> None:
    layer = LayerId("5" * 16)
    tree = layers.stage(layer)
    (home / "staging" / layer / "fs" / "file").write_text("content")
    assert list(layers.names()) == []
    assert not layers.exists(layer)
    layers.publish(layer, {"id": layer, "source": b"/\xff"})
    assert not os.path.exists(tree)
    assert list(layers.names()) == [layer]
    assert (home / "layers" / layer / "fs" / "file").read_text() == "content"
    assert (home / "layers" / layer / "layer.json").exists()


def test_an_upper_is_empty_and_closed_until_it_has_its_roots_mode(
    layers: Layers, home: Path
) -> None:
    layer = LayerId("5" * 16)
    layers.make_upper(layer, {"id": layer})
    assert layers.is_empty(layer)
    assert os.path.isdir(layers.work(layer))
    assert (home / "layers" / layer).stat().st_mode & 0o777 == 0o700
    (home / "layers" / layer / "fs" / "file").touch()
    assert not layers.is_empty(layer)
    layers.drop_work(layer)
    assert not os.path.exists(layers.work(layer))


class Killed(BaseException):
    """The daemon is killed here."""


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be killed at the call of that number that changes a directory."""
    calls = count(1)

    def dying(call: Callable[..., None]) -> Callable[..., None]:
        def die(*arguments: object) -> None:
            if next(calls) == number:
                raise Killed
            call(*arguments)

        return die

    for name in ("mkdir", "rename", "fsync"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))


@pytest.mark.parametrize("number", range(1, 7))
def test_an_upper_that_a_killed_daemon_left_half_made_is_made_by_the_next(
    layers: Layers, number: int
) -> None:
    layer = LayerId("5" * 16)
    with pytest.MonkeyPatch.context() as monkeypatch:
        killed_at(number, monkeypatch)
        with pytest.raises(Killed):
            layers.make_upper(layer, {"id": layer})
    again = Layers(layers.home)
    again.sweep()
    if not again.exists(layer):
        again.make_upper(layer, {"id": layer})
    assert again.is_empty(layer)
    assert os.path.isdir(again.work(layer))
    assert os.path.exists(os.path.join(os.path.dirname(again.fs(layer)), b"layer.json"))


def test_deleting_may_be_repeated_and_reaches_any_depth(layers: Layers, home: Path) -> None:
    layer = LayerId("5" * 16)
    layers.make_upper(layer, {"id": layer})
    here = os.open(layers.fs(layer), os.O_PATH)
    for _ in range(1100):
        os.mkdir("d" * 8, 0o000, dir_fd=here)
        os.chmod("d" * 8, 0o700, dir_fd=here)
        there = os.open("d" * 8, os.O_PATH, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    for _ in range(2):
        layers.delete(layer)
        assert not layers.exists(layer)
    assert os.listdir(home / "staging") == []


def test_what_is_lost_keeps_its_content_and_takes_no_place_of_another(
    layers: Layers, home: Path
) -> None:
    layer = LayerId("un known\n")
    for number in range(2):
        (home / "layers" / layer).mkdir()
        (home / "layers" / layer / "file").write_text(str(number))
        layers.lose(layer)
    lost = home / "lost+found"
    assert sorted((path / "file").read_text() for path in lost.iterdir()) == ["0", "1"]
    assert list(layers.names()) == []


def test_sweeping_empties_staging_alone(layers: Layers, home: Path) -> None:
    layers.stage(LayerId("5" * 16))
    (home / "staging" / "a file").touch()
    layers.make_upper(LayerId("6" * 16), {})
    layers.sweep()
    assert os.listdir(home / "staging") == []
    assert list(layers.names()) == ["6" * 16]


def test_the_workdir_of_a_layer_that_is_gone_is_gone(layers: Layers, home: Path) -> None:
    layers.drop_work(LayerId("5" * 16))
    assert list(layers.names()) == []


def test_deleting_reaches_nothing_through_a_link(layers: Layers, home: Path) -> None:
    layer = LayerId("5" * 16)
    layers.make_upper(layer, {"id": layer})
    (home / "precious").write_text("precious")
    tree = home / "layers" / layer / "fs"
    (tree / "up").symlink_to(home)
    os.link(home / "precious", tree / "linked")
    layers.delete(layer)
    assert (home / "precious").read_text() == "precious"
    assert os.listdir(home / "staging") == []
