"""The client: finds, starts and replaces daemons, and gives up a request on Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from envstack import __version__, client, errors
from envstack.rpc import shapes
from envstack.rpc.places import places
from tests.daemon.harness import COMMAND, WITHIN, FakeDaemon
from tests.support import needs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def daemon(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    with FakeDaemon(home, monkeypatch) as fake:
        yield fake


def test_connecting_starts_no_daemon(daemon: FakeDaemon, home: Path) -> None:
    with pytest.raises(client.NotRunning) as told:
        daemon.connect()
    assert told.value.exit_code == 7
    assert not home.exists()


def test_a_socket_that_a_dead_daemon_left_is_no_daemon(daemon: FakeDaemon, home: Path) -> None:
    home.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(daemon.places.socket)
    with pytest.raises(client.NotRunning):
        daemon.connect()
    with daemon.start() as connection:
        assert connection.call("echo") == {}


def test_a_daemon_that_runs_is_taken(daemon: FakeDaemon) -> None:
    with daemon.start() as one, daemon.start() as two, daemon.connect() as three:
        assert one.daemon_pid == two.daemon_pid == three.daemon_pid
        assert one.identity["version"] == __version__


def test_a_daemon_that_cannot_even_begin_is_quoted(daemon: FakeDaemon) -> None:
    command = (sys.executable, "-c", "raise SystemExit('no such module, say')")
    with pytest.raises(errors.NoDaemon, match="no such module, say"):
        client.connect_or_start(daemon.places, command)


def test_what_listens_there_and_is_no_daemon_is_not_talked_to(
    daemon: FakeDaemon, home: Path
) -> None:
    home.mkdir()
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(daemon.places.socket)
        impostor.listen()

        def answer() -> None:
            peer, _ = impostor.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b'{"jsonrpc":"2.0","id":1,"result":"welcome"}\n')

        other = threading.Thread(target=answer)
        other.start()
        with pytest.raises(errors.NoDaemon, match="no envstack daemon"):
            daemon.connect()
        other.join()


@pytest.mark.parametrize("older", [{"version": "0.0.9"}, {"version": "99.0", "protocol": 0}])
@pytest.mark.parametrize("way", ["start", "connect"])
def test_an_older_daemon_is_replaced(
    daemon: FakeDaemon, older: dict[str, object], way: str
) -> None:
    daemon.configure(**older)
    with subprocess.Popen(COMMAND, stderr=subprocess.DEVNULL) as old:
        daemon.wait_until_it_listens()
        daemon.configure()
        with getattr(daemon, way)() as connection:
            assert connection.identity["version"] == __version__
            assert connection.call("daemon.status")["version"] == __version__
            assert connection.daemon_pid != old.pid
        assert old.wait(WITHIN) == 0


def test_a_newer_daemon_is_left_alone(daemon: FakeDaemon) -> None:
    daemon.configure(version="99.0")
    with pytest.raises(client.RemoteError, match=r"version 99\.0, newer than this") as told:
        daemon.start()
    assert told.value.exit_code == 7
    pid = daemon.lock_owner()
    with pytest.raises(client.RemoteError, match=r"version 99\.0"):
        daemon.connect()
    assert daemon.holds_lock()
    assert daemon.lock_owner() == pid


@pytest.mark.kernel
def test_a_daemon_of_another_mount_namespace_is_named(daemon: FakeDaemon) -> None:
    unshare = needs.program("unshare")
    with pytest.raises(errors.StateError, match="another mount namespace") as told:
        client.connect_or_start(daemon.places, (unshare, "--mount", *COMMAND))
    assert told.value.exit_code == 4
    assert str(daemon.lock_owner()) in told.value.message


def test_a_daemon_of_another_home_is_not_taken_for_this_ones(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeDaemon(home, monkeypatch) as fake:
        monkeypatch.delenv("ENVSTACK_HOME")
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
        monkeypatch.setenv("XDG_DATA_HOME", str(home / "one"))
        fake.places = places(os.environ, os.getuid())
        with fake.start() as connection:
            assert connection.call("echo") == {}
        monkeypatch.setenv("XDG_DATA_HOME", str(home / "two"))
        other = places(os.environ, os.getuid())
        assert other.socket == fake.places.socket
        with pytest.raises(errors.StateError, match="keeps another store"):
            client.connect(other)


def test_progress_is_handed_on(daemon: FakeDaemon) -> None:
    told: list[client.Progress | client.Output] = []
    with daemon.start() as connection:
        connection.call("report_much", {"times": 3}, told.append)
        assert connection.call("echo", {"n": 1}, told.append) == {"n": 1}
    assert {getattr(said, "message", None) for said in told} <= {"counting"}


def test_an_answer_of_many_megabytes_arrives(daemon: FakeDaemon) -> None:
    with daemon.start() as connection:
        assert len(connection.call("large", {"bytes": 1 << 25})) == 1 << 25


def test_an_error_keeps_what_it_carries(daemon: FakeDaemon) -> None:
    with daemon.start() as connection:
        with pytest.raises(client.RemoteError) as told:
            connection.call("refuse")
        assert shapes.error(told.value) == {
            "kind": "stack-file",
            "message": "a.yaml:1:2: no",
            "hint": "Mend it.",
            "faults": [{"line": 1}],
        }
        assert told.value.exit_code == 2
        assert connection.call("echo") == {}


def test_a_request_that_is_too_long_is_refused_as_such(daemon: FakeDaemon) -> None:
    with (
        daemon.start() as connection,
        pytest.raises(client.RemoteError, match="at most 1048576 bytes"),
    ):
        connection.call("echo", {"s": "x" * (1 << 22)})


def interrupt(_: client.Progress | client.Output) -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_cancels_the_request_and_the_connection_goes_on(daemon: FakeDaemon) -> None:
    with daemon.start() as connection:
        with pytest.raises(errors.Cancelled, match="the request was cancelled") as told:
            connection.call("wait_for_ever", {}, interrupt)
        assert told.value.exit_code == 130
        assert connection.call("echo") == {}


def test_an_interrupt_waits_for_what_must_not_be_torn(daemon: FakeDaemon, home: Path) -> None:
    with daemon.start() as connection:
        with pytest.raises(errors.Cancelled, match="was done before"):
            connection.call("until_cancelled", {"trace": str(home / "trace")}, interrupt)
        assert (home / "trace").exists()


def test_a_daemon_that_dies_amid_a_request_is_said_to_have_ended(daemon: FakeDaemon) -> None:
    with daemon.start() as connection:
        pid = connection.daemon_pid

        def kill(_: client.Progress | client.Output) -> None:
            os.kill(pid, signal.SIGKILL)

        with pytest.raises(errors.NoDaemon, match="ended before it answered") as told:
            connection.call("wait_for_ever", {}, kill)
        assert not isinstance(told.value, client.NotRunning)
        with pytest.raises(errors.NoDaemon):
            connection.call("echo")


def test_the_client_imports_nothing_that_is_slow_to_start() -> None:
    slow = "{'anyio','asyncio','pydantic','typer','rich','yaml','sqlite3','subprocess','logging'}"
    code = f"import sys; from envstack import client; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
