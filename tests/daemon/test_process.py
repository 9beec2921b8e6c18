"""The daemon's process: one at a time, told how its start went, and how it ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from envstack import __version__, client
from tests.daemon.harness import COMMAND, WITHIN, FakeDaemon
from tests.support import needs, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STRANGER = 12345


@pytest.fixture
def daemon(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    with FakeDaemon(home, monkeypatch) as fake:
        yield fake


def mode(path: bytes) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_what_the_daemon_makes_is_closed_to_others(daemon: FakeDaemon) -> None:
    daemon.start().close()
    assert mode(daemon.places.home) == 0o700
    assert mode(daemon.places.socket) == 0o600
    assert mode(daemon.places.lock) == 0o600
    assert mode(daemon.places.log) == 0o600


def test_a_home_open_to_others_is_closed(daemon: FakeDaemon, home: Path) -> None:
    home.mkdir()
    home.chmod(0o755)
    daemon.start().close()
    assert mode(daemon.places.home) == 0o700


def test_a_home_of_another_user_is_refused(daemon: FakeDaemon, home: Path) -> None:
    if os.getuid() != 0:
        needs.lack("root, to give a directory away")
    home.mkdir()
    os.chown(home, STRANGER, STRANGER)
    with pytest.raises(client.RemoteError, match=f"belongs to another user .{STRANGER}") as told:
        daemon.start()
    assert told.value.exit_code == 4
    assert os.listdir(home) == []


def test_a_home_may_be_a_link_to_a_larger_disk(daemon: FakeDaemon, home: Path) -> None:
    disk = home.with_name(f"{home.name}-disk")
    disk.mkdir()
    home.symlink_to(disk)
    daemon.start().close()
    assert (disk / "daemon.sock").is_socket()
    with daemon.ends() as pid:
        os.kill(pid, signal.SIGTERM)
    home.unlink()
    disk.rename(home)


def test_a_short_socket_path_is_found_for_a_long_home(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    with FakeDaemon(home / ("d" * 120), monkeypatch) as daemon:
        with daemon.start() as connection:
            assert connection.call("echo") == {}
        assert daemon.places.socket.startswith(os.fsencode(home / "envstack") + b"/")
        assert mode(os.path.dirname(daemon.places.socket)) == 0o700


def test_a_socket_directory_that_is_a_link_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    (home / "elsewhere").mkdir(parents=True)
    (home / "envstack").symlink_to("elsewhere")
    with (
        FakeDaemon(home / ("d" * 120), monkeypatch) as daemon,
        pytest.raises(client.RemoteError, match="cannot start"),
    ):
        daemon.start()


@pytest.mark.kernel
@pytest.mark.parametrize("lock", [True, False], ids=["with a lock file", "empty"])
def test_a_store_that_cannot_be_written_is_told_in_words(
    daemon: FakeDaemon, home: Path, lock: bool
) -> None:
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", home], check=True)
    try:
        if lock:
            (home / "daemon.lock").touch()
        subprocess.run(["mount", "-o", "remount,ro", home], check=True)
        with pytest.raises(client.RemoteError) as told:
            daemon.start()
    finally:
        subprocess.run(["umount", home], check=True)
    place = home / "daemon.lock"
    assert told.value.message == f"the daemon cannot start: Read-only file system: {place}"
    assert (told.value.exit_code, "ENVSTACK_HOME" in told.value.hint) == (5, True)


def test_the_daemon_holds_nothing_of_its_starter(daemon: FakeDaemon) -> None:
    with daemon.start() as connection:
        around = connection.call("surroundings")
        pid = connection.daemon_pid
        assert around["cwd"] == "/"
        assert around["umask"] == 0o077
        assert os.getsid(0) != around["sid"]
        links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1)}
        assert links == {os.devnull}
        assert os.readlink(f"/proc/{pid}/fd/2") == os.fsdecode(daemon.places.log)
        assert not any(
            os.readlink(f"/proc/{pid}/fd/{fd}").startswith("pipe:")
            for fd in os.listdir(f"/proc/{pid}/fd")
        )


def test_the_daemon_may_open_as_many_files_as_its_limit_lets(daemon: FakeDaemon) -> None:
    with daemon.start() as connection:
        soft, hard = resource.prlimit(connection.daemon_pid, resource.RLIMIT_NOFILE)
        assert soft == hard


def test_the_daemon_has_one_child_which_ends_with_it_and_has_none_of_its_limits(
    daemon: FakeDaemon,
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
    try:
        daemon.start().close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    pid = daemon.lock_owner()
    children = [
        int(child)
        for tasks in Path(f"/proc/{pid}/task").iterdir()
        for child in (tasks / "children").read_text().split()
    ]
    assert len(children) == 1
    launcher = os.pidfd_open(children[0])
    limits = resource.prlimit(children[0], resource.RLIMIT_NOFILE)
    waiting.kill(pid, signal.SIGKILL, "the daemon")
    waiting.exited(launcher, "the launcher", within=1.0)
    os.close(launcher)
    assert limits == (1000, before[1])


def test_status_says_who_and_where_the_daemon_is(daemon: FakeDaemon) -> None:
    with daemon.start() as connection:
        connection.call("keep_up", {"names": ["web", "api"]})
        assert connection.call("daemon.status") == {
            "pid": connection.daemon_pid,
            "version": __version__,
            "home": os.fsdecode(daemon.places.home),
            "socket": os.fsdecode(daemon.places.socket),
            "log": os.fsdecode(daemon.places.log),
            "environments": ["web", "api"],
        }


def test_of_many_that_start_at_once_one_becomes_the_daemon(daemon: FakeDaemon) -> None:
    def pid_seen(_: int) -> int:
        with daemon.start() as connection:
            return connection.daemon_pid

    with ThreadPoolExecutor(4) as starters:
        pids = set(starters.map(pid_seen, range(4)))
    assert pids == {daemon.lock_owner()}
    assert daemon.log().count(" serves ") == 1


def test_a_second_daemon_says_that_there_is_one(daemon: FakeDaemon) -> None:
    daemon.start().close()
    second = subprocess.run(COMMAND, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert second.returncode == 4
    assert f"another daemon runs (process {daemon.lock_owner()})" in second.stderr


def test_one_home_has_one_daemon_whatever_the_runtime_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeDaemon(home / "data" / "envstack", monkeypatch) as here:
        here.start().close()
        monkeypatch.delenv("ENVSTACK_HOME")
        monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
        second = subprocess.run(
            COMMAND, capture_output=True, text=True, timeout=WITHIN, check=False
        )
        assert second.returncode == 4
        assert "with a socket elsewhere" in second.stderr


def test_a_killed_daemon_leaves_nothing_in_the_way_of_the_next(daemon: FakeDaemon) -> None:
    daemon.start().close()
    with daemon.ends() as first:
        os.kill(first, signal.SIGKILL)
    assert os.path.exists(daemon.places.socket)
    with daemon.start() as connection:
        assert connection.daemon_pid not in (0, first)


def test_a_service_that_cannot_start_is_told_to_the_starter_and_the_log(
    daemon: FakeDaemon,
) -> None:
    daemon.configure(start_error="damaged")
    with pytest.raises(client.RemoteError, match="newer format") as told:
        daemon.start()
    assert (told.value.kind, told.value.exit_code) == ("damaged", 6)
    assert told.value.hint == "Use the newer envstack."
    assert "newer format" in daemon.log()
    assert not daemon.holds_lock()
    assert not os.path.exists(daemon.places.socket)


def test_a_bug_at_the_start_is_logged_and_the_starter_told_where(daemon: FakeDaemon) -> None:
    daemon.configure(start_error="bug")
    with pytest.raises(client.RemoteError) as told:
        daemon.start()
    assert (told.value.kind, told.value.exit_code) == ("internal", 1)
    assert os.fsdecode(daemon.places.log) in told.value.hint
    assert "LookupError: not a thing to tell users" in daemon.log()


def test_a_wrong_log_level_is_wrong_usage(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVSTACK_LOG", "loud")
    with pytest.raises(client.RemoteError, match="ENVSTACK_LOG is 'loud'") as told:
        daemon.start()
    assert told.value.exit_code == 2


@pytest.mark.parametrize(("level", "seen"), [("debug", True), ("Info", False)])
def test_the_log_is_as_talkative_as_asked(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, level: str, seen: bool
) -> None:
    monkeypatch.setenv("ENVSTACK_LOG", level)
    with daemon.start() as connection:
        connection.call("echo")
    assert ("asks for echo" in daemon.log()) == seen


def test_the_log_is_rotated_and_standard_error_follows(daemon: FakeDaemon, home: Path) -> None:
    with daemon.start() as connection:
        connection.call("write_log", {"lines": 4000})
        pid = connection.daemon_pid
        assert os.readlink(f"/proc/{pid}/fd/2") == os.fsdecode(daemon.places.log)
    logs = sorted(home.glob("daemon.log*"))
    assert [log.name for log in logs] == ["daemon.log", "daemon.log.1", "daemon.log.2"]
    assert all(log.stat().st_size <= 1 << 20 for log in logs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_in_the_foreground_logs_there_and_ends_on_a_signal(
    daemon: FakeDaemon, number: signal.Signals
) -> None:
    with subprocess.Popen(COMMAND, stderr=subprocess.PIPE, text=True) as process:
        daemon.wait_until_it_listens()
        daemon.connect().close()
        process.send_signal(number)
        _, said = process.communicate(timeout=WITHIN)
    assert process.returncode == 0
    assert f"stopping: {number.name}" in said
    assert "service left" in said
    assert said == daemon.log()
    assert not os.path.exists(daemon.places.socket)


def test_a_stopping_daemon_finishes_and_answers_what_must_not_be_torn(
    daemon: FakeDaemon, home: Path
) -> None:
    with daemon.greeted() as raw, daemon.ends() as pid:
        raw.ask("sealing", "until_exists", path=str(home / "go"))
        raw.ask("waiting", "wait_for_ever")
        assert {raw.hear()["params"]["message"], raw.hear()["params"]["message"]} == {"started"}
        os.kill(pid, signal.SIGTERM)
        cancelled = raw.hear()
        assert (cancelled["id"], cancelled["error"]["data"]["kind"]) == ("waiting", "cancelled")
        with pytest.raises(client.NotRunning):
            daemon.connect()
        assert daemon.holds_lock()
        (home / "go").touch()
        assert raw.hear() == {"jsonrpc": "2.0", "id": "sealing", "result": "finished"}
        assert raw.hears_the_end()
    assert "service left" in daemon.log()


def test_who_comes_while_a_daemon_ends_gets_the_next_one(daemon: FakeDaemon, home: Path) -> None:
    with daemon.greeted() as raw, ThreadPoolExecutor(1) as other:
        raw.ask(1, "until_exists", path=str(home / "go"))
        assert raw.hear()["method"] == "progress"
        with daemon.ends() as first:
            os.kill(first, signal.SIGTERM)
            waiting.until(lambda: not os.path.exists(daemon.places.socket), "the stop")
            late = other.submit(daemon.start)
            (home / "go").touch()
        with late.result(WITHIN) as connection:
            assert connection.daemon_pid != first


def test_the_daemon_stops_when_asked_and_says_so_first(daemon: FakeDaemon) -> None:
    with daemon.start() as connection, daemon.ends() as pid:
        assert connection.call("daemon.stop") == {"pid": pid}
    assert f"asked by process {os.getpid()}" in daemon.log()


def test_a_daemon_does_not_wait_for_ever_for_a_request(daemon: FakeDaemon, home: Path) -> None:
    daemon.configure(grace=0.1)
    with daemon.greeted() as raw:
        raw.ask(1, "until_exists", path=str(home / "never"))
        assert raw.hear()["method"] == "progress"
        with daemon.ends() as pid:
            os.kill(pid, signal.SIGTERM)
    assert "not ended in time" in daemon.log()


def test_a_daemon_does_not_wait_for_ever_for_a_reader(daemon: FakeDaemon) -> None:
    daemon.configure(grace=0.1)
    with daemon.greeted() as raw, daemon.start() as connection:
        raw.ask(1, "large", bytes=1 << 24)
        raw.ask(2, "echo")
        connection.call("echo")
        with daemon.ends() as pid:
            os.kill(pid, signal.SIGTERM)
    assert "service left" in daemon.log()


def test_a_daemon_that_nobody_needs_ends_by_itself(daemon: FakeDaemon) -> None:
    daemon.configure(linger=0.1)
    with daemon.start() as connection, daemon.ends():
        connection.close()
    assert "nothing is up and nobody is connected" in daemon.log()
    assert not os.path.exists(daemon.places.socket)


@pytest.fixture
def clock(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Wait, as long as it takes a daemon that lingers for a second to end."""

    def wait() -> None:
        with monkeypatch.context() as patch, FakeDaemon(home / "clock", patch, linger=1.0) as idle:
            idle.start().close()
            with idle.ends():
                pass

    return wait


def test_a_daemon_stays_while_an_environment_is_up(
    daemon: FakeDaemon, clock: Callable[[], None]
) -> None:
    daemon.configure(linger=0.1)
    with daemon.start() as connection:
        connection.call("keep_up", {"names": ["web"]})
    clock()
    with daemon.connect() as connection, daemon.ends() as pid:
        assert connection.daemon_pid == pid
        connection.call("keep_up", {"names": []})
        connection.close()


def test_a_daemon_stays_while_somebody_is_connected(
    daemon: FakeDaemon, clock: Callable[[], None]
) -> None:
    daemon.configure(linger=0.1)
    with daemon.start() as connection:
        clock()
        with daemon.ends():
            assert connection.call("echo") == {}
            connection.close()


def test_the_ready_line_is_one_json_object(daemon: FakeDaemon) -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as pipe:
        subprocess.run([*COMMAND, "--ready-fd", str(write_end)], pass_fds=[write_end], check=True)
        os.close(write_end)
        assert json.loads(pipe.read()) == {"ready": True}


def test_a_starter_that_no_longer_waits_does_not_harm_the_daemon(daemon: FakeDaemon) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    subprocess.run([*COMMAND, "--ready-fd", str(write_end)], pass_fds=[write_end], check=True)
    os.close(write_end)
    daemon.wait_until_it_listens()
    with daemon.connect() as connection:
        assert connection.call("echo") == {}
