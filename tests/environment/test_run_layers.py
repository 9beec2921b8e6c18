"""A layer made by a command: built once, found again, at its final path, nothing left behind."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from envstack.errors import CommandFailed, StackFileError
from tests.environment.harness import Bystander, Engine, mounts_at, refused
from tests.support import trees, waiting
from tests.support.edits import mkdir, write

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., Engine]

pytestmark = pytest.mark.kernel

BASE = [
    write("input", "one\n"),
    write("unrelated", "one\n"),
    mkdir("src"),
    write("src/a.c", "a\n"),
    write("src/b.c", "b\n"),
]


SECONDS = 1_000_000 + os.getpid()
"""How long a command sleeps that must not be there at the end: in nobody else's tests."""


def run(engine: Engine, *commands: str, inputs: list[str] | None = None, **more: Any) -> None:
    """Declare a stack of the base and one layer a command, called `run0` and so on."""
    rows = [
        {"name": f"run{number}", "run": command, "inputs": inputs or []}
        for number, command in enumerate(commands)
    ]
    engine.declare({"layers": [{"name": "base", "dir": "base"}, *rows], **more})


@pytest.fixture
def engine(make_engine: Make) -> Engine:
    """A project that is not up yet."""
    return make_engine(base=BASE)


@pytest.fixture
def count(directory: Callable[[], Path]) -> Path:
    """A file outside, to which a command adds a line each time that it runs."""
    return directory() / "count"


def ran(count: Path) -> int:
    return len(count.read_text().splitlines()) if count.exists() else 0


def nothing_is_left(engine: Engine) -> None:
    """Nothing of a first `up` is there: no environment, mount, mount point, half-built layer."""
    assert engine.environments() == []
    assert os.listdir(engine.home / "staging") == []
    assert mounts_at(engine.merged) == []
    assert not (engine.project / ".envstack").exists()


def test_a_command_makes_a_layer_on_top_of_those_below(engine: Engine) -> None:
    run(
        engine,
        "rm -r src; mkdir src; echo made > src/made; echo two > input",
        "cat src/made >> input",
    )
    below = trees.snapshot(engine.project / "base")
    answer = engine.up()
    assert [layer["kind"] for layer in answer["layers"]] == ["dir", "run", "run"]
    assert sorted(os.listdir(engine.merged)) == ["input", "src", "unrelated"]
    assert os.listdir(engine.merged / "src") == ["made"]
    assert (engine.merged / "input").read_text() == "two\nmade\n"
    assert trees.snapshot(engine.project / "base") == below
    assert engine.diff() == []


def test_it_runs_at_the_final_path_where_nobody_else_sees_it(
    engine: Engine, directory: Callable[[], Path]
) -> None:
    gate = directory()
    os.mkfifo(gate / "go")
    run(engine, f"pwd > where; echo $PWD >> where; cat {gate}/go > got; touch {gate}/gone")
    building = threading.Thread(target=engine.up)
    building.start()
    with open(gate / "go", "w") as go:  # opens when the command reads
        assert os.listdir(engine.merged) == []
        assert mounts_at(engine.merged) == []
        go.write("on\n")
    building.join()
    assert (engine.merged / "where").read_text() == f"{engine.merged}\n" * 2
    assert (engine.merged / "got").read_text() == "on\n"
    assert (gate / "gone").exists(), "the rest of the machine is seen, and can be written"


def test_a_second_up_runs_nothing(engine: Engine, count: Path) -> None:
    run(engine, f"echo x >> {count}; date > when", inputs=["input"])
    engine.up()
    when = (engine.merged / "when").read_text()
    engine.up()
    engine.down()
    engine.up()
    assert ran(count) == 1
    assert (engine.merged / "when").read_text() == when


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        ("command", 2),
        ("env", 2),
        ("input", 2),
        ("below", 2),
        ("mode of an input", 2),
        ("unrelated", 1),
        ("name of the environment", 1),
    ],
)
def test_it_runs_again_when_what_it_is_made_from_has_changed(
    engine: Engine, count: Path, change: str, runs: int
) -> None:
    last = f"echo x >> {count}"
    run(engine, "true", last, inputs=["inp*", "src"], env={"A": "1"})
    engine.up()
    engine.down()
    command, below = last, "true"
    more: dict[str, Any] = {"env": {"A": "1"}}
    match change:
        case "command":
            command = f"{last}; true"
        case "below":
            below = "touch other"
        case "env":
            more = {"env": {"A": "2"}}
        case "input":
            (engine.project / "base/src/a.c").write_text("changed\n")
        case "mode of an input":
            (engine.project / "base/input").chmod(0o755)
        case "unrelated":
            (engine.project / "base/unrelated").write_text("changed\n")
        case _:
            more = {**more, "name": "other"}
    run(engine, below, command, inputs=["inp*", "src"], **more)
    assert engine.up()["outdated"] == []
    assert ran(count) == runs


def test_inputs_are_seen_as_the_command_sees_them(make_engine: Make, count: Path) -> None:
    """A later layer covers an earlier one's file; what lies in a mount upon it does not count."""
    engine = make_engine(low=[write("input", "low\n")], high=[write("input", "high\n")])
    layers = [
        {"name": "low", "dir": "low"},
        {"name": "high", "dir": "high"},
        {"name": "run", "run": f"echo x >> {count}", "inputs": ["**"]},
    ]
    engine.declare({"layers": layers})
    engine.up()
    engine.down()
    (engine.project / "low/input").write_text("changed, and covered\n")
    engine.up()
    assert ran(count) == 1


def test_an_input_that_is_not_there_is_a_fault_with_its_place(engine: Engine) -> None:
    run(engine, "true", inputs=["input", "nothing*"])
    with pytest.raises(StackFileError, match=r"`nothing\*` matches nothing in the layers below"):
        engine.up()
    nothing_is_left(engine)


def test_an_input_that_is_gone_keeps_nobody_from_what_was_built(engine: Engine) -> None:
    run(engine, "cat input > made", inputs=["input"])
    engine.up()
    engine.write("file")
    engine.checkpoint()
    (engine.project / "base/input").unlink()
    assert engine.up()["outdated"] == ["run0"]
    engine.down()
    assert engine.up()["outdated"] == ["run0"]
    assert (engine.merged / "made").read_text() == "one\n"
    with pytest.raises(StackFileError, match="matches nothing"):
        engine.up(rebuild="")


def test_the_variables_are_the_users_with_the_stacks_over_them(engine: Engine) -> None:
    run(engine, "env > variables", env={"MINE": "of the stack", "WORD": "two words"})
    environ = {"PATH": os.environ["PATH"], "MINE": "of the user", "ALSO": "of\nthe user"}
    engine.up(environ=environ)
    seen = (engine.merged / "variables").read_text()
    for line in (
        "MINE=of the stack",
        "WORD=two words",
        "ALSO=of\nthe user",
        "ENVSTACK_ENV=sandbox",
    ):
        assert f"{line}\n" in seen
    assert f"ENVSTACK_MOUNT={engine.merged}\n" in seen


def test_a_command_that_fails_leaves_nothing_and_shows_its_last_lines(engine: Engine) -> None:
    lines = "; ".join(f"echo line {number}" for number in range(100))
    run(engine, f"touch made; {lines}; echo to stderr >&2; exit 7; touch never")
    with pytest.raises(CommandFailed, match=r"layer 'run0' .* exit code 7") as caught:
        engine.up()
    assert caught.value.output.splitlines()[-2:] == ["line 99", "to stderr"]
    assert len(caught.value.output.splitlines()) == 20
    nothing_is_left(engine)


def test_a_command_stops_at_the_first_line_that_fails(engine: Engine) -> None:
    run(engine, "false\ntouch never\n")
    with refused(1, "command-failed"):
        engine.up()


def test_a_command_ended_by_a_signal_is_said_to_be(engine: Engine) -> None:
    run(engine, "kill -TERM $$")
    with refused(1, "command-failed") as refusal:
        engine.up()
    assert "SIGTERM" in refusal.message


def test_layers_below_one_that_fails_are_kept_for_the_next_try(engine: Engine, count: Path) -> None:
    run(engine, f"echo x >> {count}; echo kept > kept", "false")
    for _ in range(2):
        with refused(1, "command-failed"):
            engine.up()
        nothing_is_left(engine)
    run(engine, f"echo x >> {count}; echo kept > kept", "cat kept > copy")
    engine.up()
    assert ran(count) == 1
    assert (engine.merged / "copy").read_text() == "kept\n"


def test_a_layer_that_waits_for_its_next_try_is_deleted_when_it_has_waited_long(
    engine: Engine, count: Path
) -> None:
    run(engine, f"echo x >> {count}", "false")
    with refused(1, "command-failed"):
        engine.up()
    engine.stop()
    (kept,) = (engine.home / "layers").iterdir()
    engine.start()
    engine.stop()
    assert kept.exists()
    os.utime(kept, (0, 0))
    engine.start()
    waiting.until(lambda: not kept.exists(), "its end", 10)


def test_what_a_command_leaves_running_ends_with_it(
    engine: Engine, directory: Callable[[], Path]
) -> None:
    noted = directory() / "pid"
    run(
        engine,
        f"(setsid sh -c 'cat /proc/self/mountinfo > {noted}; exec sleep {SECONDS}' &) ; "
        f"while ! test -s {noted}; do :; done",
    )
    engine.up()
    assert "envstack-build:" in noted.read_text()
    sleeping = [pid for pid in Path("/proc").glob("[0-9]*/cmdline") if _is_sleeper(pid)]
    assert sleeping == []


def _is_sleeper(cmdline: Path) -> bool:
    try:
        return cmdline.read_bytes() == b"sleep\0%d\0" % SECONDS
    except OSError:
        return False


def test_commands_that_nobody_said_yes_to_do_not_run(engine: Engine, count: Path) -> None:
    run(engine, f"echo x >> {count}", env={"A": "1"})
    with refused(4, "untrusted"):
        engine.up(trust=False)
    nothing_is_left(engine)
    assert ran(count) == 0
    terms = engine.call("trust.add", stack=str(engine.stack))
    assert terms["commands"] == [{"layer": "run0", "run": f"echo x >> {count}"}]
    engine.up(trust=False)
    engine.down()
    run(engine, f"echo x >> {count}", env={"A": "2"})
    with refused(4, "untrusted"):
        engine.up(trust=False)
    with refused(4, "untrusted"):
        engine.up(trust=False, consent=terms["digest"])
    assert ran(count) == 1
    run(engine, f"echo x >> {count}", env={"A": "1"})
    engine.up(trust=False)
    assert [row["stack"] for row in engine.call("trust.list")] == [str(engine.stack)]


def test_nothing_is_built_before_somebody_said_yes(engine: Engine) -> None:
    copied = {"name": "copied", "dir": "base", "copy": True}
    engine.declare({"layers": [copied, {"name": "run", "run": "true"}]})
    with refused(4, "untrusted"):
        engine.up(trust=False)
    assert os.listdir(engine.home / "layers") == []


def test_a_yes_is_for_one_stack_file_and_can_be_taken_back(engine: Engine) -> None:
    run(engine, "true")
    engine.call("trust.add", stack=str(engine.stack))
    other = engine.project / "other.yaml"
    other.write_text(engine.stack.read_text().replace("sandbox", "other"))
    with refused(4, "untrusted"):
        engine.call("env.up", stack=str(other))
    assert engine.call("trust.revoke", stack=str(engine.stack)) == {"revoked": 1}
    with refused(3):
        engine.call("trust.revoke", stack=str(engine.stack))
    with refused(4, "untrusted"):
        engine.up(trust=False)


def test_a_rebuild_runs_a_layer_and_those_above_it(engine: Engine, directory: Any) -> None:
    notes = directory() / "notes"
    run(engine, *(f"echo {name} >> {notes}; cp {notes} {name}" for name in "abc"))
    engine.up()
    engine.down()
    engine.up(rebuild="run1")
    assert notes.read_text().split() == [*"abc", *"bc"]
    assert (engine.merged / "c").read_text().split() == [*"abc", *"bc"]
    engine.up(rebuild="")
    assert notes.read_text().split() == [*"abc", *"bc", *"abc"]
    with refused(3):
        engine.up(rebuild="nothing")
    assert (engine.merged / "c").read_text().split() == [*"abc", *"bc", *"abc"]


@pytest.mark.parametrize("is_up", [True, False])
def test_a_rebuild_keeps_the_history_and_what_was_not_sealed(engine: Engine, is_up: bool) -> None:
    run(engine, "cat input > made", inputs=["input"])
    engine.up()
    engine.write("sealed")
    sealed = engine.checkpoint("sealed")["id"]
    engine.write("unsealed")
    (engine.project / "base/input").write_text("two\n")
    assert engine.up()["outdated"] == ["run0"]
    if not is_up:
        engine.down()
        assert engine.up()["outdated"] == ["run0"], "a history stays on the layers it stands on"
        engine.down()
    answer = engine.up(rebuild="run0")
    assert answer["outdated"] == []
    assert (answer["head"], answer["left"]) == (None, sealed)
    assert sorted(os.listdir(engine.merged)) == ["input", "made", "src", "unrelated"]
    assert (engine.merged / "made").read_text() == "two\n"
    engine.settle()
    rows = {row["id"]: row for row in engine.log()}
    assert set(rows) == {sealed, answer["saved"]}
    assert rows[sealed]["changes"] == {"added": 1, "modified": 0, "deleted": 0}
    assert rows[answer["saved"]]["changes"] == {"added": 1, "modified": 0, "deleted": 0}
    engine.until_sealed(answer["saved"])
    engine.rollback(answer["saved"])
    assert (engine.merged / "made").read_text() == "one\n"
    assert {"sealed", "unsealed"} <= set(os.listdir(engine.merged))
    engine.rollback("base")
    assert (engine.merged / "made").read_text() == "two\n"


def test_a_rebuild_without_changes_saves_nothing_and_deletes_the_old_layer(engine: Engine) -> None:
    run(engine, "date +%N > made")
    before = engine.up()["layers"][1]["id"]
    answer = engine.up(rebuild="")
    assert answer["saved"] is None
    assert engine.log() == []
    engine.settle()
    assert not (engine.home / "layers" / before).exists()


def test_a_rebuild_is_refused_while_somebody_is_inside(engine: Engine, count: Path) -> None:
    run(engine, f"echo x >> {count}")
    engine.up()
    somebody = Bystander(engine.merged)
    try:
        somebody.do("os.chdir(T)")
        with refused(4, "held"):
            engine.up(rebuild="")
    finally:
        somebody.close()
    assert ran(count) == 1


def test_a_changed_stack_file_can_be_laid_under_a_history_by_a_rebuild(engine: Engine) -> None:
    run(engine, "touch made")
    engine.up()
    engine.write("file")
    engine.checkpoint()
    run(engine, "touch another")
    with refused(4) as refusal:
        engine.up()
    assert "--rebuild" in refusal.hint
    engine.up(rebuild="")
    assert sorted(os.listdir(engine.merged)) == ["another", "input", "src", "unrelated"]
    engine.rollback(engine.log()[0]["id"])
    assert "made" in os.listdir(engine.merged)


def test_other_environments_are_not_held_by_a_command_that_runs(
    engine: Engine, directory: Callable[[], Path]
) -> None:
    gate = directory()
    os.mkfifo(gate / "go")
    other = directory() / "other.yaml"
    other.parent.joinpath("low").mkdir()
    command = {"name": "run", "run": f"cat {gate}/go > got"}
    layers = [{"name": "low", "dir": "low"}, command]
    other.write_text(json.dumps({"version": 1, "name": "other", "layers": layers}))
    engine.up()
    building = threading.Thread(target=lambda: engine.call("env.up", stack=str(other), trust=True))
    building.start()
    with open(gate / "go", "w") as go:
        engine.write("file")
        engine.checkpoint()
        engine.down()
        go.write("on\n")
    building.join()
    engine.call("env.down", stack=str(other), purge=True)


def test_a_killed_daemon_takes_its_commands_along(
    sandbox: Callable[..., Any], directory: Callable[[], Path]
) -> None:
    box = sandbox(base=[write("input", "one\n")])
    noted = directory() / "noted"
    command = f"echo $$ > {noted}; exec sleep {SECONDS}"
    layers = [{"name": "base", "dir": "base"}, {"name": "run", "run": command}]
    box.declare({"layers": layers})
    building = threading.Thread(target=_until_it_is_gone, args=(box,))
    pid = box.client.daemon_pid
    building.start()
    waiting.until(lambda: noted.exists() and noted.stat().st_size > 0, "the command", 10)
    os.kill(pid, 9)
    building.join()
    box.disconnect()
    assert box.environments() == []
    waiting.until(lambda: not any(map(_is_sleeper, Path("/proc").glob("[0-9]*/cmdline"))), "it", 5)
    box.declare({"layers": layers[:1]})
    box.up()


def _until_it_is_gone(box: Any) -> None:
    with pytest.raises(Exception, match="daemon ended"):
        box.up()
