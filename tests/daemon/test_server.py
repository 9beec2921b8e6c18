"""The socket as a stranger meets it: greeting, messages that are none, requests side by side."""

from __future__ import annotations

import json
import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from envstack import __version__
from envstack.rpc import messages
from tests.daemon.harness import WITHIN, FakeDaemon
from tests.support import needs, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = 65534


@pytest.fixture
def daemon(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    with FakeDaemon(home, monkeypatch) as fake:
        yield fake


def test_a_greeting_is_answered_with_who_and_where_the_daemon_is(daemon: FakeDaemon) -> None:
    with daemon.raw() as raw:
        assert raw.greet()["result"] == {
            "protocol": messages.PROTOCOL,
            "version": __version__,
            "pid": daemon.lock_owner(),
            "mount_ns": os.stat("/proc/self/ns/mnt").st_ino,
            "home": os.fsdecode(daemon.places.home),
        }


@pytest.mark.parametrize(("protocol", "version"), [(0, "99.0"), (1, "0.0.9")])
def test_a_client_older_than_the_daemon_is_told_so_and_left(
    daemon: FakeDaemon, protocol: int, version: str
) -> None:
    with daemon.raw() as raw:
        error = raw.greet(protocol, version)["error"]
        assert error["data"]["kind"] == "no-daemon"
        assert error["data"]["exit"] == 7
        assert version in error["message"]
        assert raw.hears_the_end()


@pytest.mark.parametrize(("protocol", "version"), [("1", "1"), (1, 1), (None, None)])
def test_a_greeting_of_another_shape_is_refused(
    daemon: FakeDaemon, protocol: object, version: object
) -> None:
    with daemon.raw() as raw:
        assert raw.greet(protocol, version)["error"]["code"] == messages.INVALID_PARAMS


def test_nothing_is_served_before_the_greeting(daemon: FakeDaemon) -> None:
    with daemon.raw() as raw:
        raw.ask(1, "echo")
        answer = raw.hear()
        assert (answer["id"], answer["error"]["code"]) == (1, messages.INVALID_REQUEST)


def test_another_user_is_refused(daemon: FakeDaemon, home: Path) -> None:
    if os.getuid() != 0:
        needs.lack("root, to become another user")
    daemon.start().close()
    os.chmod(home, 0o711)
    os.chmod(daemon.places.socket, 0o666)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(home)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.settimeout(WITHIN)
                stranger.connect("daemon.sock")
                while data := stranger.recv(4096):
                    os.write(write_end, data)
        except BaseException as error:
            os.write(write_end, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as heard:
        answer = json.loads(heard.read())
    os.waitpid(child, 0)
    assert "another user" in answer["error"]["message"]
    assert f"of user {NOBODY}" in daemon.log()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"nonsense", messages.PARSE_ERROR),
        (b"", messages.PARSE_ERROR),
        (b"\xff\xfe", messages.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"method":"echo","params":{"n":NaN}}', messages.PARSE_ERROR),
        (b"[" * 500_000, messages.PARSE_ERROR),
        (b"[]", messages.INVALID_REQUEST),
        (b"7", messages.INVALID_REQUEST),
        (b'{"id":7,"method":"echo"}', messages.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":7}', messages.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":7,"method":7}', messages.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":true,"method":"echo"}', messages.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":null,"method":"echo"}', messages.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":[],"method":"echo"}', messages.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":7,"method":"nothing"}', messages.METHOD_NOT_FOUND),
        (b'{"jsonrpc":"2.0","id":7,"method":"echo","params":[]}', messages.INVALID_PARAMS),
    ],
)
def test_a_faulty_line_is_answered_and_the_next_one_served(
    daemon: FakeDaemon, line: bytes, code: int
) -> None:
    with daemon.greeted() as raw:
        raw.write(line + b"\n")
        assert raw.hear()["error"]["code"] == code
        raw.ask(8, "echo", still="there")
        assert raw.hear()["result"] == {"still": "there"}


def test_a_line_of_just_the_greatest_length_is_served(daemon: FakeDaemon) -> None:
    with daemon.greeted() as raw:
        head, tail = b'{"jsonrpc":"2.0","id":7,"method":"echo","params":{"s":"', b'"}}'
        body = b"x" * (messages.MAX_REQUEST - len(head) - len(tail))
        raw.write(head + body + tail + b"\n")
        assert raw.hear()["result"] == {"s": body.decode()}


def test_a_line_that_is_too_long_ends_its_connection_alone(daemon: FakeDaemon) -> None:
    with daemon.greeted() as raw, daemon.greeted() as other:
        raw.write(b"x" * (messages.MAX_REQUEST + 1))
        assert raw.hear()["error"]["code"] == messages.INVALID_REQUEST
        assert raw.hears_the_end()
        other.ask(1, "echo")
        assert other.hear()["result"] == {}


def test_lines_are_served_however_they_are_cut_and_joined(daemon: FakeDaemon) -> None:
    with daemon.greeted() as raw:
        line = b'{"jsonrpc":"2.0","id":%d,"method":"echo"}\r\n'
        data = line % 1 + line % 2 + line % 3
        raw.write(data[:-50])
        assert raw.hear()["id"] == 1
        raw.write(data[-50:])
        assert {raw.hear()["id"], raw.hear()["id"]} == {2, 3}


def test_names_that_are_not_utf8_survive_both_ways(daemon: FakeDaemon) -> None:
    name = os.fsdecode(b'caf\xe9\n"\\')
    with daemon.start() as client:
        assert client.call("echo", {"name": name}) == {"name": name}


def test_an_unknown_notification_is_passed_over(daemon: FakeDaemon) -> None:
    with daemon.greeted() as raw:
        raw.say(method="weather", params={"sun": True})
        raw.say(method="$/cancel", params={"id": [1]})
        raw.ask(1, "echo")
        assert raw.hear()["id"] == 1


def test_requests_of_one_connection_run_side_by_side(daemon: FakeDaemon, home: Path) -> None:
    with daemon.greeted() as raw:
        raw.ask("slow", "until_exists", path=str(home / "go"))
        assert raw.hear()["params"]["message"] == "started"
        raw.ask("quick", "echo")
        assert raw.hear()["id"] == "quick"
        (home / "go").touch()
        assert raw.hear() == {"jsonrpc": "2.0", "id": "slow", "result": "finished"}


def test_an_id_cannot_be_used_twice_at_once(daemon: FakeDaemon) -> None:
    with daemon.greeted() as raw:
        raw.ask(1, "wait_for_ever")
        assert raw.hear()["method"] == "progress"
        raw.ask(1, "echo")
        assert raw.hear()["error"]["code"] == messages.INVALID_REQUEST


def test_one_connection_cannot_run_requests_without_end(daemon: FakeDaemon) -> None:
    with daemon.greeted() as raw:
        for number in range(257):
            raw.ask(number + 1, "wait_for_ever")
        refused = next(said for _ in range(257) if "error" in (said := raw.hear()))
        assert refused["id"] == 257
        assert "256" in refused["error"]["message"]


def test_a_waiting_request_can_be_cancelled(daemon: FakeDaemon) -> None:
    with daemon.greeted() as raw:
        raw.ask(1, "wait_for_ever")
        raw.ask(2, "wait_for_ever")
        assert {raw.hear()["params"]["id"], raw.hear()["params"]["id"]} == {1, 2}
        raw.say(method="$/cancel", params={"id": 1})
        answer = raw.hear()
        assert answer["id"] == 1
        assert answer["error"]["code"] == messages.CANCELLED
        assert answer["error"]["data"] == {"kind": "cancelled", "hint": "", "exit": 130}


def test_a_request_is_cancelled_that_was_only_just_sent(daemon: FakeDaemon) -> None:
    with daemon.greeted() as raw:
        ask = {"jsonrpc": "2.0", "id": 1, "method": "wait_for_ever"}
        cancel = {"jsonrpc": "2.0", "method": "$/cancel", "params": {"id": 1}}
        raw.write(f"{json.dumps(ask)}\n{json.dumps(cancel)}\n".encode())
        answer = raw.hear()
        assert answer["error"]["data"]["kind"] == "cancelled"


def test_blocking_work_sees_that_it_is_cancelled_and_what_it_did_is_answered(
    daemon: FakeDaemon, home: Path
) -> None:
    with daemon.greeted() as raw:
        raw.ask(1, "until_cancelled", trace=str(home / "trace"))
        assert raw.hear()["params"] == {"id": 1, "message": "started", "done": 0, "total": 1}
        raw.say(method="$/cancel", params={"id": 1})
        assert raw.hear()["result"] == "stopped at a safe place"


def test_a_peer_that_goes_away_cancels_what_it_asked_for(daemon: FakeDaemon, home: Path) -> None:
    with daemon.greeted() as raw:
        raw.ask(1, "until_cancelled", trace=str(home / "trace"))
        assert raw.hear()["params"]["message"] == "started"
        assert not (home / "trace").exists()
    waiting.until((home / "trace").exists, "the end of the request")


def test_reports_never_overtake_each_other_and_cost_no_more_than_can_be_sent(
    daemon: FakeDaemon,
) -> None:
    with daemon.greeted() as raw:
        raw.ask(1, "report_much", times=20_000)
        told = []
        while "method" in (message := raw.hear()):
            told.append(message["params"]["done"])
        assert message["id"] == 1
        assert told == sorted(set(told))
        assert 0 < len(told) < 20_000


def test_a_slow_reader_keeps_nobody_waiting(daemon: FakeDaemon) -> None:
    with daemon.greeted() as slow, daemon.start() as quick:
        for number in range(100):
            slow.ask(number, "large", bytes=1 << 20)
        assert quick.call("echo", {"n": 1}) == {"n": 1}
        assert len({slow.hear()["id"] for _ in range(100)}) == 100


def test_a_reader_that_leaves_in_the_middle_of_an_answer_harms_nobody(daemon: FakeDaemon) -> None:
    with daemon.start() as client:
        for _ in range(5):
            with daemon.greeted() as raw:
                raw.ask(1, "large", bytes=1 << 24)
                raw.ask(2, "large", bytes=1 << 24)
        assert client.call("echo") == {}
        assert client.daemon_pid == daemon.lock_owner()
        assert "Traceback" not in daemon.log()


def test_who_asks_is_known(daemon: FakeDaemon) -> None:
    with daemon.start() as client:
        assert client.call("peer") == os.getpid()


def test_an_error_for_users_is_answered_with_all_it_carries(daemon: FakeDaemon) -> None:
    with daemon.greeted() as raw:
        raw.ask(1, "refuse")
        assert raw.hear()["error"] == {
            "code": messages.FAILED,
            "message": "a.yaml:1:2: no",
            "data": {"kind": "stack-file", "hint": "Mend it.", "exit": 2, "faults": [{"line": 1}]},
        }


def test_an_error_out_of_a_task_group_is_answered_as_itself(daemon: FakeDaemon) -> None:
    with daemon.greeted() as raw:
        raw.ask(1, "refuse_in_a_group")
        assert raw.hear()["error"]["data"]["kind"] == "not-found"


@pytest.mark.parametrize(
    ("method", "exception"), [("bug", "LookupError"), ("no_json", "TypeError")]
)
def test_a_bug_is_logged_and_the_answer_names_the_log(
    daemon: FakeDaemon, method: str, exception: str
) -> None:
    with daemon.greeted() as raw:
        raw.ask(1, method)
        error = raw.hear()["error"]
        assert error["code"] == messages.INTERNAL_ERROR
        assert error["data"]["kind"] == "internal"
        assert error["data"]["exit"] == 1
        assert os.fsdecode(daemon.places.log) in error["data"]["hint"]
        assert "not a thing to tell users" not in error["message"]
        assert f"{exception}: " in daemon.log()
        raw.ask(2, "echo")
        assert raw.hear()["id"] == 2


@pytest.mark.parametrize(
    ("method", "where"), [("fill_disk", "the store"), ("exceed_quota", "/some/where")]
)
def test_a_full_disk_is_said_plainly(daemon: FakeDaemon, method: str, where: str) -> None:
    with daemon.greeted() as raw:
        raw.ask(1, method)
        error = raw.hear()["error"]
        assert error["message"] == f"no space left on the file system of {where}"
        assert error["data"]["kind"] == "failed"
        assert error["data"]["exit"] == 1


def test_the_daemon_survives_a_want_of_file_descriptors(daemon: FakeDaemon) -> None:
    with daemon.start():
        pid = daemon.lock_owner()
        used = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 2, used + 2))
        crowd = [daemon_socket(daemon) for _ in range(6)]
        waiting.until(lambda: "could not be accepted" in daemon.log(), "the refusal")
        for stranger in crowd:
            stranger.close()
        with daemon.connect() as late:
            assert late.call("echo") == {}


def daemon_socket(daemon: FakeDaemon) -> socket.socket:
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(daemon.places.socket)
    return stranger
