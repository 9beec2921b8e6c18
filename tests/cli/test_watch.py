"""`watch` and `sync`: the feed as lines, as JSON, and as batches for a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from envstack.cli.batches import Batch
from envstack.errors import NotUp, UsageError
from tests.cli.harness import WITHIN, changed, event, interrupt, read, ready, status
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.harness import Cli, FakeCall, FakeDaemon

    Json = dict[str, Any]

HISTORY = (
    event("checkpoint", 3, id="0a0b0c0d0e0f0a0b", message="it works\nat last", mode="rotate"),
    event("rollback-begin", 4, to="base"),
    changed(5, "a", change="deleted"),
    event("rollback-end", 6, to="base"),
    event("mount", 7, state="swapped"),
    event("sync", 8),
)


def telling(*events: Json) -> Callable[[FakeCall], Json]:
    """Return what answers a subscription: these events, and then nothing until it ends."""

    def answer(call: FakeCall) -> Json:
        call.tell(*events)
        call.wait_for_end()
        return {}

    return answer


@contextmanager
def watching(cli: Cli, *arguments: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run `watch`, with its lines to be read from `stdout`."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    with cli.start("watch", *arguments, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def test_each_event_is_one_object_as_the_daemon_told_it(cli: Cli, daemon: FakeDaemon) -> None:
    events = [ready(1), changed(2, "caf\ufffd"), *HISTORY, event("of-a-newer-daemon", 9, x=[1])]
    events[1]["changes"][0]["path_b64"] = "Y2Fm6Q=="
    daemon.answers["feed.subscribe"] = telling(*events)
    with watching(cli, "--json") as process:
        assert [json.loads(line) for line in read(process, len(events))] == events


def test_for_people_there_is_a_line_a_change(cli: Cli, daemon: FakeDaemon) -> None:
    added = event("changes", 2, changes=[{"path": "d", "change": "added", "kind": "dir"}])
    daemon.answers["feed.subscribe"] = telling(ready(), added, changed(3, "d/\x1b[2J"), *HISTORY)
    with watching(cli) as process:
        assert read(process, 9) == [
            "web on base at /p/.envstack/merged",
            "A d/",
            'M "d/\\e[2J"',
            "checkpoint 0a0b0c0d it works …",
            "rollback to base begins",
            "D a",
            "rollback to base is done",
            "the merged tree is swapped",
            "sync",
        ]


def test_a_terminal_gets_colours(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["feed.subscribe"] = telling(ready(head="0a0b0c0d0e0f0a0b"), changed(1, "a"))
    with cli.on_terminal("watch") as terminal:
        said = terminal.read_until("\x1b[33mM a\x1b[0m")
        assert "web on 0a0b0c0d at" in said
        interrupt(terminal.process)
        assert terminal.finish().code == 130


def test_the_environment_is_asked_for_by_its_stack_file(
    cli: Cli, daemon: FakeDaemon, stack: Path
) -> None:
    daemon.answers["env.glance"] = status(stack=str(stack))
    daemon.answers["feed.subscribe"] = telling(ready())
    with watching(
        cli, "src/", "--since", "e.1.0", "--ignore", "*.o", "--ignore", "/a b"
    ) as process:
        read(process, 1)
    assert daemon.calls[-1] == (
        "feed.subscribe",
        {"stack": str(stack), "since": "e.1.0", "ignore": ["*.o", "/a b"], "prefix": "src"},
    )


@pytest.mark.parametrize("path", [".", "a/../b/", "/p/.envstack/merged/a"])
def test_a_path_is_taken_as_diff_takes_it(cli: Cli, daemon: FakeDaemon, path: str) -> None:
    daemon.answers["feed.subscribe"] = telling(ready(), changed(1, "a"))
    assert cli("watch", "--once", path).code == 0
    followed = daemon.calls[-1][1]["prefix"]
    assert cli("diff", "--", path).code == 0
    assert [followed] == daemon.calls[-1][1]["paths"]


@pytest.mark.parametrize(
    ("error", "code"), [(NotUp("it is not up", "envstack up"), 4), (UsageError("whose?"), 2)]
)
def test_what_the_daemon_says_against_it_ends_it(
    cli: Cli, daemon: FakeDaemon, error: Any, code: int
) -> None:
    daemon.answers["feed.subscribe"] = error
    done = cli("watch", "--json")
    assert (done.code, done.error["kind"]) == (code, error.kind)


def test_once_prints_the_first_change_and_ends(cli: Cli, daemon: FakeDaemon) -> None:
    events = (ready(1), event("sync", 2), changed(3, "b", "a"), changed(4, "c"))
    daemon.answers["feed.subscribe"] = telling(*events)
    assert cli("watch", "--once", "--json").document == events[2]
    done = cli("watch", "--once")
    assert (done.code, done.out) == (0, "M b\nM a\n")


def test_once_ends_where_changes_since_the_cursor_are_lost(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["feed.subscribe"] = telling(ready(1, fresh=True), changed(2, "a"))
    assert cli("watch", "--once", "--since", "e.0.9", "--json").document["fresh"]
    assert "list the tree anew" in cli("watch", "--once", "--since", "e.0.9").out
    assert cli("watch", "--once", "--json").document["event"] == "changes"


def test_it_goes_on_after_the_last_event_when_the_daemon_is_killed(
    cli: Cli, daemon: FakeDaemon
) -> None:
    seen: list[Any] = []

    def answer(call: FakeCall) -> Json:
        seen.append(call.request.params["since"])
        at = len(seen)
        call.tell(ready(at), changed(at + 1, f"a{at}"))
        if at < 3:
            call.die()
        else:
            call.wait_for_end()
        return {}

    daemon.answers["feed.subscribe"] = answer
    with watching(cli, "--json") as process:
        told = [json.loads(line) for line in read(process, 6)]
    assert [row["event"] for row in told] == ["ready", "changes"] * 3
    assert seen == [None, "e.1.2", "e.1.3"]


def test_ctrl_c_ends_it_with_130(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["feed.subscribe"] = telling(ready())
    with watching(cli) as process:
        read(process, 1)
        interrupt(process)
        assert process.wait(WITHIN) == 130


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--for", "cat")])
def test_a_closed_pipe_ends_it_quietly_though_nothing_happens(
    cli: Cli, daemon: FakeDaemon, arguments: tuple[str, ...]
) -> None:
    daemon.answers["feed.subscribe"] = telling(ready(), changed(1, "a"))
    with watching(cli, *arguments) as process:
        read(process, 1)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(WITHIN) == 128 + signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_it_holds_no_merged_tree_and_imports_nothing_slow(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["feed.subscribe"] = telling(ready(), changed(1, "a"))
    prelude = (
        "import atexit\n"
        "slow = ('pydantic', 'rich', 'anyio', 'asyncio', 'watchfiles', 'yaml')\n"
        "atexit.register(lambda: print(os.getcwd(), [m for m in slow if m in sys.modules]))"
    )
    assert cli.python(prelude, "watch", "--once").out == "M a\n/ []\n"


def write(*texts: str) -> tuple[str, ...]:
    """Return a command that prints its input, each byte as a number, and then these texts."""
    code = "import sys; print(list(sys.stdin.buffer.read()), *sys.argv[1:], flush=True)"
    return ("--for", sys.executable, "-c", code, *texts)


def shown(paths: bytes, *texts: str) -> str:
    return " ".join([str(list(paths)), *texts])


def test_a_command_gets_each_path_once_and_sorted(cli: Cli, daemon: FakeDaemon) -> None:
    events = (ready(), changed(1, "b", "a"), changed(2, "a"), changed(3, "a/c"))
    events[3]["changes"].append(
        {"path": "\ufffd", "path_b64": "6Q==", "change": "added", "kind": "file"}
    )
    daemon.answers["feed.subscribe"] = telling(*events)
    with watching(cli, *write("--json", "-0")) as process:
        assert read(process, 1) == [shown(b"a\na/c\nb\n\xe9\n", "--json", "-0")]
    with watching(cli, "-0", *write()) as process:
        assert read(process, 1) == [shown(b"a\0a/c\0b\0\xe9\0")]


def test_the_command_may_stand_behind_two_dashes(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["feed.subscribe"] = telling(ready(), changed(1, "a"))
    option, *words = write()
    with watching(cli, option, "--", *words) as process:
        assert read(process, 1) == [shown(b"a\n")]


def test_the_command_runs_where_the_caller_is_and_knows_the_mount(
    cli: Cli, daemon: FakeDaemon, project: Path
) -> None:
    daemon.answers["feed.subscribe"] = telling(ready(), changed(1, "a"))
    script = project / "script"
    script.write_text('#!/bin/sh\necho "$PWD $ENVSTACK_ENV $ENVSTACK_MOUNT"\n')
    script.chmod(0o755)
    with watching(cli, "--for", "./script") as process:
        assert read(process, 1) == [f"{project} web /p/.envstack/merged"]


def test_changes_made_while_it_runs_are_the_next_batch(
    cli: Cli, daemon: FakeDaemon, project: Path
) -> None:
    def answer(call: FakeCall) -> Json:
        call.tell(ready(), changed(1, "a"))
        waiting.until((project / "runs").exists, "the command", WITHIN)
        call.tell(changed(2, "b"), changed(3, "c"))
        (project / "told").touch()
        call.wait_for_end()
        return {}

    daemon.answers["feed.subscribe"] = answer
    code = "touch runs; until [ -e told ]; do sleep 0.01; done; tr '\\n' ' '; echo"
    with watching(cli, "--for", "sh", "-c", code) as process:
        assert read(process, 2) == ["a ", "b c "]


def test_what_a_rollback_changed_is_a_batch_when_it_is_done(cli: Cli, daemon: FakeDaemon) -> None:
    begin, end = event("rollback-begin", 1, to="base"), event("rollback-end", 3, to="base")
    daemon.answers["feed.subscribe"] = telling(ready(), begin, changed(2, "a"), end)
    with watching(cli, "--settle", "0", *write()) as process:
        assert read(process, 1) == [shown(b"a\n")]


def test_no_batch_is_due_amid_a_rollback() -> None:
    batch = Batch()
    for told, is_due in (
        (changed(1, "a"), True),
        (event("rollback-begin", 2, to="base"), False),
        (changed(3, "b"), False),
        (event("rollback-end", 4, to="base"), True),
        (event("rollback-begin", 5, to="base"), False),
        (ready(9), False),
        (ready(9, fresh=True), True),
    ):
        batch.add(told)
        assert batch.is_due == is_due, told
    assert batch.paths == {b"a", b"b"}


def test_a_failure_is_said_and_the_watch_goes_on(cli: Cli, daemon: FakeDaemon) -> None:
    def answer(call: FakeCall) -> Json:
        call.tell(ready(), changed(1, "a"))
        call.lines.readline()
        return {}

    daemon.answers["feed.subscribe"] = answer
    with watching(cli, "--for", "sh", "-c", "cat; kill -9 $$") as process:
        assert read(process, 1) == ["a"]
        assert process.stderr is not None
        assert process.stderr.readline() == b"sh was ended by SIGKILL\n"
        interrupt(process)
        assert process.wait(WITHIN) == 130
    with watching(cli, "--for", "sh", "-c", "exit 3") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"sh ended with 3\n"


def test_with_once_the_exit_code_is_that_of_the_command(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["feed.subscribe"] = telling(ready(), changed(1, "a"))
    assert cli("watch", "--once", "--for", "sh", "-c", "exit 3").code == 3
    assert cli("watch", "--once", "--for", "cat").out == "a\n"


def test_lost_changes_run_the_command_too(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["feed.subscribe"] = telling(ready(fresh=True))
    with watching(cli, "--since", "e.0.1", *write()) as process:
        assert read(process, 1) == [shown(b"")]


@pytest.mark.parametrize("target", ["watch alone", "the whole terminal"])
def test_ctrl_c_ends_the_command_too(
    cli: Cli, daemon: FakeDaemon, project: Path, target: str
) -> None:
    daemon.answers["feed.subscribe"] = telling(ready(), changed(1, "a"))
    code = "echo $$; exec sleep 60"
    with watching(cli, "--for", "sh", "-c", code, start_new_session=True) as process:
        child = os.pidfd_open(int(read(process, 1)[0]))
        try:
            if target == "watch alone":
                interrupt(process)
            else:
                os.killpg(process.pid, signal.SIGINT)
            assert process.wait(WITHIN) == 130
            waiting.exited(child, "the command")
        finally:
            os.close(child)


@pytest.mark.parametrize(
    ("command", "code"), [("no-such-command", 127), ("./envstack.yaml", 126), ("make it", 127)]
)
def test_a_command_that_cannot_run_ends_it_at_once(
    cli: Cli, daemon: FakeDaemon, command: str, code: int
) -> None:
    done = cli("watch", "--for", command)
    assert (done.code, done.out) == (code, "")
    assert ("sh -c" in done.err) == (" " in command)
    assert daemon.methods == []


def test_a_directory_that_is_gone_is_named(cli: Cli, daemon: FakeDaemon, project: Path) -> None:
    gone = project / "gone"
    gone.mkdir()

    def answer(call: FakeCall) -> Json:
        gone.rmdir()
        return telling(ready(), changed(1, "a"))(call)

    daemon.answers["feed.subscribe"] = answer
    cli.cwd = gone
    done = cli("watch", "--for", "true")
    assert done.code == 1
    assert f"{gone} cannot be entered" in done.err


def test_json_and_a_command_exclude_each_other(cli: Cli, daemon: FakeDaemon) -> None:
    done = cli("watch", "--json", "--for", "true")
    assert (done.code, done.error["kind"]) == (2, "usage")


def test_sync_prints_a_cursor(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("sync").out == "e.1.7\n"
    assert cli("sync", "--json").document == {"cursor": "e.1.7", "seq": 7}
    assert daemon.calls[-1] == ("feed.sync", {"stack": str(cli.cwd / "envstack.yaml")})
