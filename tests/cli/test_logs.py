"""`daemon logs`: the last lines, and those that are yet to come."""

from __future__ import annotations

import json
import logging.handlers
import os
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import WITHIN, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.harness import Cli


class Log:
    """The daemon's log, written and rotated as the daemon does."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        self.handler = logging.handlers.RotatingFileHandler(
            home / "daemon.log", backupCount=2, encoding="utf-8"
        )

    def write(self, *lines: str) -> None:
        for line in lines:
            self.handler.emit(logging.makeLogRecord({"msg": line}))

    def write_part(self, text: str) -> None:
        assert self.handler.stream is not None
        self.handler.stream.write(text)
        self.handler.flush()


@pytest.fixture
def log(home: Path) -> Iterator[Log]:
    log = Log(home)
    log.write("one", "two", "three")
    yield log
    log.handler.close()


@contextmanager
def following(cli: Cli, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Follow the log, with its lines to be read from `stdout`."""
    process = cli.start(
        "daemon", "logs", "-f", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("count", "shown"), [("2", ["two", "three"]), ("9", None), ("0", [])])
def test_the_last_lines_are_shown(cli: Cli, log: Log, count: str, shown: list[str] | None) -> None:
    expected = ["one", "two", "three"] if shown is None else shown
    assert cli("daemon", "logs", "-n", count).out.splitlines() == expected
    assert cli("daemon", "logs", "--lines", count, "--json").document["lines"] == expected


@pytest.mark.parametrize("count", ["-1", "few"])
def test_what_is_no_number_of_lines_is_wrong_usage(cli: Cli, log: Log, count: str) -> None:
    assert cli("daemon", "logs", "-n", count).code == 2


def test_lines_are_followed_as_they_come(cli: Cli, log: Log) -> None:
    with following(cli, "-n", "1") as process:
        assert read(process, 1) == ["three"]
        log.write_part("fo")
        log.write_part("ur\n")
        assert read(process, 1) == ["four"]
        log.write("fi\x1bve", "six")
        assert read(process, 2) == ["fi\\eve", "six"]


def test_nothing_is_lost_when_the_log_is_rotated(cli: Cli, log: Log) -> None:
    with following(cli) as process:
        assert read(process, 3) == ["one", "two", "three"]
        for number in range(5):
            log.write(f"last of file {number}")
            log.handler.doRollover()
            log.write(f"first after {number}")
            assert read(process, 2) == [f"last of file {number}", f"first after {number}"]


def test_each_followed_line_is_one_object(cli: Cli, log: Log) -> None:
    with following(cli, "--json", "-n", "1") as process:
        assert [json.loads(line) for line in read(process, 1)] == [{"line": "three"}]
        log.write("fo\x1bur")
        assert [json.loads(line) for line in read(process, 1)] == [{"line": "fo\x1bur"}]


def test_ctrl_c_ends_it_with_130(cli: Cli, log: Log) -> None:
    with following(cli, "-n", "1") as process:
        read(process, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN) == 130


def test_a_closed_pipe_ends_it_quietly_though_nothing_is_written(cli: Cli, log: Log) -> None:
    with following(cli, "-n", "1") as process:
        read(process, 1)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(WITHIN) == 128 + signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_without_a_log_there_is_nothing_to_follow(cli: Cli, home: Path) -> None:
    assert cli("daemon", "logs", "-f").code == 3
    assert not os.path.exists(home)
