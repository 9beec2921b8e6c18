"""Who is inside refuses a swap, by name; `force` strands those who only look."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.environment.harness import mounts_at, nothing_changes, refused
from tests.support import trees

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.environment.harness import Bystander, Engine

    Start = Callable[[], Bystander]

pytestmark = pytest.mark.kernel

LOOKING = {
    "cwd": "os.chdir(T + '/dir')",
    "file": "fd = os.open(T + '/known', os.O_RDONLY)",
    "mapping": """
fd = os.open(T + '/known', os.O_RDONLY)
m = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
os.close(fd)""",
    "socket": "s = socket.socket(socket.AF_UNIX); s.bind(T + '/sock')",
    "lock": "fd = os.open(T + '/known', os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX)",
    "inotify": """
libc = ctypes.CDLL(None); fd = libc.inotify_init(); libc.inotify_add_watch(fd, T.encode(), 2)""",
}
"""What `force` may leave behind, by the name that the holder's hold must have."""

HARMED = {
    "writing": "fd = os.open(T + '/file', os.O_WRONLY)",
    "mapping-writable": """
fd = os.open(T + '/file', os.O_RDWR)
m = mmap.mmap(fd, 0)
os.close(fd)""",
    "copy": """
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.set_propagation(b'/', syscalls.MS_REC | syscalls.MS_PRIVATE)""",
}
"""What would lose data."""

OPERATIONS: dict[str, Callable[..., Any]] = {
    "checkpoint": lambda engine, **options: engine.checkpoint(mode="rotate", **options),
    "rollback": lambda engine, **options: engine.rollback("base", mode="swap", **options),
}


@pytest.fixture(params=OPERATIONS)
def operation(request: pytest.FixtureRequest) -> Callable[..., Any]:
    found: Callable[..., Any] = OPERATIONS[request.param]
    return found


@pytest.mark.parametrize("what", LOOKING)
def test_one_who_looks_refuses_a_swap_and_is_stranded_by_force(
    engine: Engine, bystander: Start, operation: Callable[..., Any], what: str
) -> None:
    holder = bystander()
    engine.write("file")
    holder.do(LOOKING[what])
    with nothing_changes(engine), refused(4, "held") as refusal:
        operation(engine)
    assert (holder.pid, what) in refusal.holds
    assert str(holder.pid) in refusal.message
    answer = operation(engine, force=True)
    assert [row["pid"] for row in answer["stranded"]] == [holder.pid]
    assert what in {hold["what"] for hold in answer["stranded"][0]["holds"]}
    assert operation(engine)["stranded"] == [], "who was stranded holds the new tree no more"


@pytest.mark.parametrize("what", HARMED)
@pytest.mark.parametrize("force", [False, True])
def test_one_who_would_lose_data_refuses_a_swap_even_with_force(
    engine: Engine, bystander: Start, operation: Callable[..., Any], what: str, force: bool
) -> None:
    holder = bystander()
    engine.write("file")
    holder.do(HARMED[what])
    with nothing_changes(engine), refused(4, "held") as refusal:
        operation(engine, force=force)
    assert (holder.pid, what) in refusal.holds
    if what == "copy":
        assert refusal.hint == f"nsenter --mount --target {holder.pid} umount {engine.merged}"
    engine.write("file", "still writable")
    holder.close()
    operation(engine)


MOUNTS = {
    "bind": ("--bind", "{merged}/dir", "{project}/elsewhere"),
    "mount-inside": ("-t", "tmpfs", "none", "{merged}/dir"),
}


@pytest.mark.parametrize(
    ("what", "force"), [("bind", False), ("bind", True), ("mount-inside", False)]
)
def test_a_mount_refuses_a_swap_even_with_force(
    engine: Engine,
    operation: Callable[..., Any],
    propagation: str,
    run: Callable[..., None],
    what: str,
    force: bool,
) -> None:
    (engine.project / "elsewhere").mkdir()
    engine.write("file")
    words = [w.format(merged=engine.merged, project=engine.project) for w in MOUNTS[what]]
    run("mount", *words)
    try:
        with nothing_changes(engine), refused(4, "held") as refusal:
            operation(engine, force=force)
        assert (None, what) in refusal.holds
        assert words[-1] in refusal.message
        assert refusal.hint == f"umount {words[-1]}"
        with refused(4, "held") as refusal:
            engine.down()
        assert refusal.hint == f"umount {words[-1]}"
    finally:
        run("umount", words[-1])
    operation(engine)


@pytest.mark.parametrize("force", [False, True])
def test_somebody_unknown_refuses_a_swap_unless_forced(
    engine: Engine, operation: Callable[..., Any], bystander: Start, force: bool
) -> None:
    """A descriptor that is on its way: no process has it."""
    sender = bystander()
    engine.write("file")
    sender.do("""
ends = socket.socketpair(); fd = os.open(T + '/file', os.O_RDONLY)
socket.send_fds(ends[0], [b'x'], [fd]); os.close(fd)""")
    rows = [{"what": "unknown", "path": str(engine.merged)}]
    (row,) = engine.status()["holders"]
    assert row == {"pid": None, "command": "unknown", "user": "", "holds": rows}
    if force:
        assert operation(engine, force=True)["stranded"] == [row]
    else:
        with nothing_changes(engine), refused(4, "held") as refusal:
            operation(engine)
        assert "somebody who cannot be named" in refusal.message
    sender.do("f = socket.recv_fds(ends[1], 1, 1)[1][0]; os.close(f)")
    assert engine.status()["holders"] == []
    operation(engine)


def test_one_unknown_who_writes_refuses_even_with_force(engine: Engine, bystander: Start) -> None:
    sender = bystander()
    engine.write("file")
    sender.do("""
ends = socket.socketpair(); fd = os.open(T + '/file', os.O_RDWR)
socket.send_fds(ends[0], [b'x'], [fd]); os.close(fd)""")
    with nothing_changes(engine), refused(4, "held"):
        engine.checkpoint(force=True)
    sender.do("f = socket.recv_fds(ends[1], 1, 1)[1][0]; os.write(f, b'goes on'); os.close(f)")
    assert engine.checkpoint()["stranded"] == []


def test_a_message_names_the_first_of_many_holders_and_counts_the_rest(
    engine: Engine, bystander: Start
) -> None:
    engine.write("file")
    holders = [bystander() for _ in range(6)]
    for holder in holders:
        holder.do("os.chdir(T)")
    with refused(4, "held") as refusal:
        engine.checkpoint(mode="rotate")
    assert {row["pid"] for row in refusal.holders} == {holder.pid for holder in holders}
    assert f"(pid {refusal.holders[0]['pid']})" in refusal.message
    assert "and 5 more" in refusal.message


def test_who_asks_is_no_holder(engine: Engine, bystander: Start) -> None:
    asker, other = bystander(), bystander()
    engine.write("file")
    asker.do("os.chdir(T)")
    engine.asker = asker.pid
    assert engine.checkpoint()["stranded"] == []
    engine.write("file", "more")
    asker.do("os.chdir(T)")
    other.do("os.chdir(T)")
    with refused(4, "held") as refusal:
        engine.rollback(mode="swap")
    assert [row["pid"] for row in refusal.holders] == [other.pid]


def test_status_names_the_holders_and_is_not_refused(engine: Engine, bystander: Start) -> None:
    holder = bystander()
    holder.do("os.chdir(T + '/dir')")
    rows = engine.status()["holders"]
    assert [(row["pid"], row["user"]) for row in rows] == [(holder.pid, "root")]
    assert rows[0]["holds"] == [{"what": "cwd", "path": f"{engine.merged}/dir"}]
    holder.do("os.chdir('/')")
    assert engine.status()["holders"] == []


def test_down_is_refused_while_somebody_is_inside_and_changes_nothing(
    engine: Engine, bystander: Start, propagation: str
) -> None:
    holder = bystander()
    holder.do("os.chdir(T)")
    with nothing_changes(engine), refused(4, "held") as refusal:
        engine.down()
    assert refusal.holds == {(holder.pid, "cwd")}
    assert engine.status()["state"] == "up"


@pytest.mark.parametrize("propagation", ["shared"], indirect=True)
def test_a_copy_that_follows_this_namespace_is_no_holder(
    propagation: str, engine: Engine, bystander: Start
) -> None:
    service = bystander()
    service.enter_namespace("slave")
    engine.write("file", "sealed")
    assert engine.checkpoint()["stranded"] == []
    engine.write("file", "changed")
    assert service.do("answer = open(T + '/file').read()") == "changed"
    engine.rollback(discard=True)
    assert service.do("answer = open(T + '/file').read()") == "sealed"
    service.do("os.chdir(T)")
    with refused(4, "held") as refusal:
        engine.down()
    assert refusal.holds == {(service.pid, "cwd")}
    service.do("os.chdir('/')")
    engine.down()
    assert service.do("answer = os.listdir(T)") == []


def test_one_who_never_stops_writing_is_met_with_patience_and_then_a_refusal(
    engine: Engine, bystander: Start
) -> None:
    """A file opened after holders were looked for: the kernel's lock has the last word."""
    from envstack.environment.steps import Step

    writer = bystander()
    engine.write("file")
    engine.at[Step.LOCK] = lambda: writer.do("fd = os.open(T + '/file', os.O_WRONLY)")
    before = engine.status()["upper"]
    with nothing_changes(engine), refused(4, "held"):
        engine.checkpoint(mode="rotate")
    assert engine.status()["upper"] == before
    assert writer.do("os.write(fd, b'goes on')") is None
    engine.at.clear()
    writer.do("os.close(fd)")
    assert engine.checkpoint()["id"]
    assert (engine.merged / "file").read_text() == "goes on\n"
    engine.settle()
    on_disk = {path.name for path in (engine.home / "layers").iterdir()}
    assert len(on_disk) == 3, "the layer, the upper and the spare: what was not used is deleted"


def test_what_is_open_survives_a_forced_swap_for_its_reader(
    engine: Engine, bystander: Start
) -> None:
    reader = bystander()
    engine.write("file", "as it was")
    reader.do("f = open(T + '/file')")
    engine.checkpoint(force=True)
    engine.write("file", "as it is")
    assert reader.do("answer = f.read()") == "as it was"
    assert os.path.ismount(engine.merged)
    assert len(mounts_at(engine.merged)) == 1
    assert trees.snapshot(engine.merged)[b"file"].size == len("as it is")
