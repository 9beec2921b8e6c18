"""A layer made of an archive: compared first, unpacked once, nothing left of one that is bad."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from envstack.archive import unpack as unpacking
from envstack.archive.unpack import unpack
from envstack.environment.steps import Step
from envstack.errors import Damaged, NoDaemon, NotFound, StackFileError, TooLarge, Unsafe
from envstack.overlay.older import mounts_beneath
from envstack.sources import archive, fetching
from envstack.stackfile.limits import ArchiveLimits, Limits
from tests.archive.harness import directory, entry, link, symlink, tar
from tests.environment.harness import Engine, refused
from tests.environment.test_run_layers import nothing_is_left
from tests.support import trees, waiting, ways
from tests.support.edits import mkdir, write
from tests.support.web import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.kernel

TOOLS = tar(
    directory("bin"),
    entry("bin/tool", b"#!/bin/sh\necho works\n", mode=0o755, uid=7, mtime=1_000_000_000),
    link("bin/same", "bin/tool"),
    symlink("bin/out", "/etc/passwd"),
    entry("dir/inner", b"of the archive\n"),
)
OTHER = tar(entry("dir/inner", b"another\n"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def way() -> str:
    """One way of mounting is enough: what a layer is made of has nothing to do with that."""
    return ways.NEWER if mounts_beneath() else ways.OLDER


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    """A project with a directory, not up yet; `tools.tar` lies in it."""
    made = make_engine(
        base=[write("known", "known\n"), mkdir("dir"), write("dir/inner", "inner\n")]
    )
    (made.project / "tools.tar").write_bytes(TOOLS)
    return made


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as served:
        yield served


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done with archives so far: `digest` or `unpack`, one a time."""
    done: list[str] = []

    def noted(name: str, whole: Callable[..., Any], *args: Any) -> Any:
        done.append(name)
        return whole(*args)

    monkeypatch.setattr(archive, "digest", partial(noted, "digest", archive.digest))
    monkeypatch.setattr(unpacking, "unpack", partial(noted, "unpack", unpack))
    return done


def declare(engine: Engine, source: str = "tools.tar", **more: Any) -> None:
    layers = [{"name": "base", "dir": "base"}, {"name": "tools", "archive": source, **more}]
    engine.declare({"layers": layers})


def settled(engine: Engine) -> None:
    """Let the archive be older than an instant of the clock that stamps files."""
    os.utime(engine.project / "tools.tar", (1_000_000_000, 1_000_000_000))
    began = os.stat(engine.project / "tools.tar").st_ctime_ns
    probe = engine.project / "probe"
    while True:
        probe.touch()
        if os.stat(probe).st_ctime_ns > began + 20_000_000:
            return


def test_it_lies_on_top_of_what_is_below(engine: Engine) -> None:
    declare(engine)
    answer = engine.up()
    assert [layer["kind"] for layer in answer["layers"]] == ["dir", "archive"]
    found = {str(path.relative_to(engine.merged)) for path in engine.merged.rglob("*")}
    assert found == {
        *("known", "dir", "dir/inner"),
        *("bin", "bin/tool", "bin/same", "bin/out"),
    }
    tool = os.stat(engine.merged / "bin" / "tool")
    assert (tool.st_mode & 0o7777, tool.st_uid, tool.st_mtime, tool.st_nlink) == (0o755, 7, 1e9, 2)
    assert os.readlink(engine.merged / "bin" / "out") == "/etc/passwd"
    assert (engine.merged / "dir" / "inner").read_text() == "of the archive\n"
    assert engine.diff() == []


def test_it_may_lie_below_a_path_and_lose_its_first_parts(engine: Engine) -> None:
    os.chown(engine.project / "base" / "dir", 5, 5)
    declare(engine, at="dir/opt", strip=1)
    engine.up()
    assert sorted(os.listdir(engine.merged / "dir")) == ["inner", "opt"]
    assert sorted(os.listdir(engine.merged / "dir" / "opt")) == ["inner", "out", "same", "tool"]
    assert os.stat(engine.merged / "dir").st_uid == 5, "it looks like the one that it covers"


@pytest.mark.parametrize("is_known", [True, False])
def test_a_second_up_reads_nothing_again(engine: Engine, reads: list[str], is_known: bool) -> None:
    settled(engine)
    declare(engine, **({"sha256": sha256(TOOLS)} if is_known else {}))
    engine.up()
    assert reads.count("unpack") == 1
    del reads[:]
    engine.up()
    engine.down()
    engine.stop()
    engine.up()
    if is_known:
        (engine.project / "tools.tar").unlink()
        engine.down()
        assert engine.up()["outdated"] == []
    assert reads == []
    assert (engine.merged / "bin" / "tool").exists()


def test_another_path_to_the_same_bytes_is_the_same_layer(engine: Engine, reads: list[str]) -> None:
    declare(engine)
    before = engine.up()["layers"][1]["id"]
    engine.down()
    (engine.project / "tools.tar").rename(engine.project / "moved")
    declare(engine, "moved", sha256=sha256(TOOLS))
    assert engine.up()["layers"][1]["id"] == before
    assert reads.count("unpack") == 1


def test_one_that_changed_is_outdated_and_built_anew_when_asked(engine: Engine) -> None:
    declare(engine)
    engine.up()
    engine.write("file")
    engine.checkpoint()
    (engine.project / "tools.tar").write_bytes(OTHER)
    assert engine.up()["outdated"] == ["tools"]
    assert (engine.merged / "dir" / "inner").read_text() == "of the archive\n"
    assert engine.up(rebuild="tools")["outdated"] == []
    assert (engine.merged / "dir" / "inner").read_text() == "another\n"
    assert not (engine.merged / "bin").exists()


def test_another_digest_than_was_asked_for_unpacks_nothing(
    engine: Engine, reads: list[str]
) -> None:
    declare(engine, sha256=sha256(OTHER))
    with refused(6, "damaged") as refusal:
        engine.up()
    assert f"layer 'tools': tools.tar has the sha256 {sha256(TOOLS)}" in refusal.message
    assert "unpack" not in reads
    nothing_is_left(engine)


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (tar(entry("a"), entry("../b")), Unsafe, "layer 'tools': tools.tar: ../b: its name holds"),
        (TOOLS[:-2000], Damaged, "bin/out: the archive's next header is missing: it was cut off"),
        (b"no archive", Damaged, "tools.tar: is neither tar nor zip"),
    ],
)
def test_an_archive_that_is_refused_leaves_nothing(
    engine: Engine, data: bytes, kind: type[Exception], said: str
) -> None:
    (engine.project / "tools.tar").write_bytes(data)
    below = trees.snapshot(engine.project / "base")
    declare(engine)
    with pytest.raises(kind, match=said):
        engine.up()
    nothing_is_left(engine)
    assert trees.snapshot(engine.project / "base") == below
    (engine.project / "tools.tar").write_bytes(TOOLS)
    engine.up()


def test_the_limits_are_those_of_the_configuration(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(engine)
    engine.start()
    limits = Limits(archive=ArchiveLimits(members=4))
    object.__setattr__(engine.context, "limits", limits)
    with pytest.raises(TooLarge, match="dir/inner: more than 4 entries"):
        engine.up()
    nothing_is_left(engine)


def test_one_that_is_gone_is_a_fault_with_its_place(engine: Engine) -> None:
    declare(engine, "gone.tar", sha256=sha256(TOOLS))
    with pytest.raises(StackFileError, match=r"envstack.yaml:1:.*No such file.*gone.tar"):
        engine.up()
    nothing_is_left(engine)


def test_one_that_changes_while_it_is_read_is_not_taken(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(engine, sha256=sha256(TOOLS))

    def unpack_and_change(*args: Any) -> None:
        unpack(*args)
        os.utime(engine.project / "tools.tar", (1, 1))

    monkeypatch.setattr(unpacking, "unpack", unpack_and_change)
    with refused(1) as refusal:
        engine.up()
    assert "changed while it was read" in refusal.message
    nothing_is_left(engine)


def test_an_address_is_fetched_once_by_who_said_yes(
    engine: Engine, web: Web, reads: list[str]
) -> None:
    address = web.lay("/tools.tar", TOOLS, cuts=[1000])
    declare(engine, address, sha256=sha256(TOOLS))
    with refused(4, "untrusted") as refusal:
        engine.up(trust=False)
    assert "fetches archives that nobody has said yes to" in refusal.message
    assert web.asked == []
    nothing_is_left(engine)
    terms = engine.call("trust.add", stack=str(engine.stack))
    assert terms["addresses"] == [{"layer": "tools", "address": address}]
    engine.up(trust=False)
    assert web.asked == [("/tools.tar", ""), ("/tools.tar", "bytes=1000-")]
    engine.settle()
    assert os.listdir(engine.home / "staging") == []
    engine.down()
    engine.up(trust=False)
    assert len(web.asked) == 2
    assert reads.count("unpack") == 1
    other = web.lay("/other", OTHER)
    engine.down()
    declare(engine, other, sha256=sha256(OTHER))
    with refused(4, "untrusted"):
        engine.up(trust=False)
    assert len(web.asked) == 2


def test_what_an_address_serves_is_compared_first(
    engine: Engine, web: Web, reads: list[str]
) -> None:
    declare(engine, web.lay("/tools.tar", OTHER), sha256=sha256(TOOLS))
    with pytest.raises(Damaged, match=f"sha256 {sha256(OTHER)}, and not {sha256(TOOLS)}"):
        engine.up()
    declare(engine, f"{web.url}/none", sha256=sha256(TOOLS))
    with pytest.raises(NotFound, match="404"):
        engine.up()
    assert "unpack" not in reads
    nothing_is_left(engine)


def test_proxies_are_those_of_the_users_shell(engine: Engine, web: Web) -> None:
    web.lay("http://files.invalid/tools.tar", TOOLS)
    declare(engine, "http://files.invalid/tools.tar", sha256=sha256(TOOLS))
    engine.up(environ={"http_proxy": web.url})
    assert (engine.merged / "bin" / "tool").exists()


def test_a_command_finds_what_the_archive_below_it_brought(engine: Engine) -> None:
    layers = [
        {"name": "tools", "archive": "tools.tar"},
        {"name": "run", "run": "bin/tool > said", "inputs": ["bin"]},
    ]
    engine.declare({"layers": layers})
    engine.up()
    assert (engine.merged / "said").read_text() == "works\n"


def test_a_mount_over_the_project_reads_the_archive_below_it(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(mount=".")
    (engine.project / "tools.tar").write_bytes(TOOLS)
    layers = [{"name": "p", "dir": "."}, {"name": "tools", "archive": "tools.tar", "at": "tools"}]
    engine.declare({"layers": layers})
    engine.up()
    (engine.merged / "tools.tar").write_bytes(OTHER)
    assert engine.up()["outdated"] == []
    assert (engine.merged / "tools" / "bin" / "tool").exists()


def test_a_full_disk_is_said_and_leaves_nothing(
    make_engine: Callable[..., Engine], filesystem: Callable[[str], Path], web: Web
) -> None:
    engine = make_engine(base=[], store=filesystem("tmpfs") / "home")
    big = tar(*[entry(f"f{number}", bytes(1 << 20)) for number in range(80)])
    (engine.project / "big.tar").write_bytes(big)
    for source in ("big.tar", web.lay("/big.tar", big)):
        declare(engine, source, sha256=sha256(big))
        with refused(1) as refusal:
            engine.up()
        assert "No space left" in refusal.message
        assert refusal.hint == "free some space for the store"
        assert os.listdir(engine.home / "staging") == []
    declare(engine, web.lay("/small.tar", TOOLS), sha256=sha256(TOOLS))
    engine.up()
    assert (engine.merged / "bin" / "tool").exists()


def test_nothing_is_unpacked_twice_when_a_later_layer_fails(
    engine: Engine, reads: list[str]
) -> None:
    failing = {"name": "run", "run": "false"}
    layers = [{"name": "base", "dir": "base"}, {"name": "tools", "archive": "tools.tar"}]
    engine.declare({"layers": [*layers, failing]})
    with refused(1, "command-failed"):
        engine.up()
    engine.declare({"layers": layers})
    engine.up()
    assert reads.count("unpack") == 1


def test_who_gives_up_while_a_server_is_silent_waits_no_longer(
    sandbox: Callable[..., Any], web: Web
) -> None:
    box = sandbox(base=[write("known", "known\n")])
    address = web.lay("/tools.tar", TOOLS, gate=threading.Event())
    declare(box, address, sha256=sha256(TOOLS))
    failures: list[Exception] = []

    def up() -> None:
        try:
            box.up()
        except Exception as error:
            failures.append(error)

    client = box.client
    going_up = threading.Thread(target=up)
    going_up.start()
    assert web.is_answering.wait(20)
    client.close()
    going_up.join(10)
    assert not going_up.is_alive()
    assert failures
    box.disconnect()
    assert box.environments() == []
    waiting.until(lambda: not os.listdir(box.home / "staging"), "the end of what was begun", 10)
    web.pages["/tools.tar"].gate = None
    box.up()
    assert (box.merged / "bin" / "tool").exists()


def test_the_step_of_unpacking_is_announced_before_anything_is_made(engine: Engine) -> None:
    seen: list[list[str]] = []
    declare(engine)
    engine.at[Step.COPY] = lambda: seen.append(os.listdir(engine.home / "staging"))
    engine.up()
    assert seen == [[]]


def test_a_daemon_that_is_killed_meanwhile_leaves_nothing_to_the_next(
    sandbox: Callable[..., Any], web: Web
) -> None:
    box = sandbox(base=[write("known", "known\n")])
    address = web.lay("/tools.tar", TOOLS, gate=threading.Event())
    declare(box, address, sha256=sha256(TOOLS))

    def up() -> None:
        with pytest.raises(NoDaemon):
            box.up()

    pid = box.client.daemon_pid
    going_up = threading.Thread(target=up)
    going_up.start()
    assert web.is_answering.wait(20)
    waiting.kill(pid, signal.SIGKILL, "the daemon")
    going_up.join()
    box.disconnect()
    assert box.environments() == []
    assert os.listdir(box.home / "staging") == []
    web.pages["/tools.tar"].gate = None
    box.up()
    assert (box.merged / "bin" / "tool").exists()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_PAUSE", 0.0)
