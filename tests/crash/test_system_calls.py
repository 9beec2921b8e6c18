"""The daemon is killed at the N-th call that changes a mount, the database or a directory."""

from __future__ import annotations

import os
from itertools import count, cycle
from typing import TYPE_CHECKING

import pytest

from envstack.client import RemoteError
from tests.crash import tracer
from tests.crash.operations import BY_NAME
from tests.crash.promises import Between, check
from tests.support.ways import OLDER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.crashbox import Crashbox
    from tests.crash.operations import Operation

pytestmark = pytest.mark.kernel

_BUILD = {"fsopen", "fsconfig", "fsmount"}
_SWAP = _BUILD | {"open_tree", "mount_setattr", "move_mount", "umount2", "fspick"}
MOUNT_CALLS = {
    "up": _BUILD | {"move_mount", "open_tree"},
    "up-again": _BUILD | {"move_mount", "open_tree"},
    "checkpoint": _SWAP,
    "rollback-with-saved": _SWAP,
    "rollback-with-discard": _SWAP,
    "down": {"umount2"},
}
"""The mount calls of each operation; a test holds them against what strace lists."""

OLDER_CALLS = {
    "up-again": {"mount", "open_tree", "umount2", "move_mount", "fsopen", "fsconfig"},
    "checkpoint": {"mount", "open_tree", "umount2", "mount_setattr", "move_mount", "fspick"}
    | {"fsconfig"},
}
"""The same where overlays are built by mount(2) and exchanged in turn."""

_DATABASE = {"pwrite64", "fdatasync"}
_UPPER = {"mkdir", "fsync", "rename"}
FILE_CALLS = {
    "up-with-a-copy": _DATABASE | _UPPER | {"syncfs", "unlinkat"},
    "checkpoint": _DATABASE | _UPPER | {"unlinkat", "syncfs"},
    "rollback-with-discard": _DATABASE | _UPPER | {"unlinkat"},
    "purge": _DATABASE | {"rename", "fsync", "unlink", "unlinkat"},
}
"""The calls on files of the store."""

OF_THE_FEED = {"open_tree", "mount_setattr", "ftruncate"}
"""What the feed does besides, at any time: watch another upper, let its journal grow."""

_STRIDE = (
    {}
    if os.environ.get("ENVSTACK_CRASH") == "all"
    else {"pwrite64": 9, "fdatasync": 2, "unlinkat": 5}
)
"""Of these calls the ordinary run kills at every so many-th."""


def calls_of(table: dict[str, set[str]]) -> pytest.MarkDecorator:
    """Parametrize with each operation of `table` and each of its calls."""
    return pytest.mark.parametrize(
        ("operation", "call"),
        [
            pytest.param(BY_NAME[name], call, id=f"{name}-{call}")
            for name, calls in table.items()
            for call in sorted(calls)
        ],
    )


@pytest.mark.parametrize(
    ("name", "known", "calls"),
    [
        *((name, tracer.MOUNT_CALLS, calls) for name, calls in MOUNT_CALLS.items()),
        *((name, tracer.FILE_CALLS, calls) for name, calls in FILE_CALLS.items()),
    ],
)
def test_the_calls_that_are_killed_at_are_those_that_are_made(
    crashbox: Crashbox, tmp_path: Path, name: str, known: tuple[str, ...], calls: set[str]
) -> None:
    BY_NAME[name].prepare(crashbox)
    with tracer.listing(crashbox.client.daemon_pid, known, tmp_path / "calls"):
        BY_NAME[name].act(crashbox)
        crashbox.books.wait_until_in_order()
    assert set(tracer.called(tmp_path / "calls")) | OF_THE_FEED == calls | OF_THE_FEED


@calls_of(MOUNT_CALLS)
def test_a_daemon_killed_at_a_mount_call_breaks_no_promise(
    make_crashbox: Callable[[], Crashbox], operation: Operation, call: str
) -> None:
    kill_at_each(make_crashbox, operation, call)


@pytest.mark.parametrize("way", [OLDER], indirect=True)
@pytest.mark.parametrize("name", OLDER_CALLS)
def test_in_the_older_way_other_calls_are_made(
    crashbox: Crashbox, tmp_path: Path, name: str
) -> None:
    BY_NAME[name].prepare(crashbox)
    with tracer.listing(crashbox.client.daemon_pid, tracer.MOUNT_CALLS, tmp_path / "calls"):
        BY_NAME[name].act(crashbox)
        crashbox.books.wait_until_in_order()
    called = set(tracer.called(tmp_path / "calls"))
    assert called | OF_THE_FEED == OLDER_CALLS[name] | OF_THE_FEED


@pytest.mark.parametrize("way", [OLDER], indirect=True)
@calls_of(OLDER_CALLS)
def test_a_daemon_killed_at_one_of_those_breaks_no_promise(
    make_crashbox: Callable[[], Crashbox], operation: Operation, call: str
) -> None:
    kill_at_each(make_crashbox, operation, call)


@calls_of(FILE_CALLS)
def test_nor_does_one_killed_at_a_call_on_the_store(
    make_crashbox: Callable[[], Crashbox], operation: Operation, call: str
) -> None:
    kill_at_each(make_crashbox, operation, call)


def kill_at_each(make_crashbox: Callable[[], Crashbox], operation: Operation, call: str) -> None:
    """Kill at the first such call, at the next one, and so on, until the daemon lives through it.

    strace counts for each thread by itself, so it is known only by trying how far one comes.
    """
    turns = zip(count(1, _STRIDE.get(call, 1)), cycle(Between))
    for nth, between in turns:
        box = make_crashbox()
        if not kill_at(box, operation, call, nth, between):
            break
        box.close()
    assert nth > 1, f"{operation} never came to {call}"


def kill_at(box: Crashbox, operation: Operation, call: str, nth: int, between: Between) -> bool:
    """Kill at one call and check what the next daemon does; return False if none came so far."""
    expected = operation.prepare(box)
    with box.death() as is_dead:
        with tracer.killing(box.client.daemon_pid, call, nth):
            if box.attempt(lambda: operation.act(box)):
                expected = expected.done
            box.rest(is_dead)
        if not is_dead():
            return False
    box.disconnect()
    try:
        check(box, expected, between.pass_by(box))
    except (AssertionError, RemoteError) as failure:
        failure.add_note(f"killed at {call} number {nth}, then: {between}")
        raise
    return True
