"""The feed for programs: typed events, one by one, whatever becomes of the daemon."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from itertools import islice
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from envstack import client
from envstack.client import (
    Changes,
    CheckpointMade,
    Feed,
    NotRunning,
    Ready,
    RemoteError,
    Synced,
    Unknown,
    awatch,
    subscription,
    sync,
    watch,
)
from envstack.errors import Cancelled, NoDaemon, NotUp, UsageError
from envstack.model import Change, ChangeType, FileKind
from envstack.rpc import messages
from tests.cli.harness import WITHIN, FakeDaemon, changed, event, ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from envstack.client import Event
    from tests.cli.harness import FakeCall

    Json = dict[str, Any]


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(home) as daemon:
        yield daemon


class Sessions:
    """Answers each subscription with the next of some scripts, the last of which stays open.

    `asked` are the params of each, and `closed` is set once the client of the last has gone.
    """

    def __init__(self, *scripts: tuple[Json, ...]) -> None:
        self.asked: list[Json] = []
        self.closed = threading.Event()
        self._scripts = scripts

    def __call__(self, call: FakeCall) -> Json:
        self.asked.append(call.request.params)
        call.tell(*self._scripts[len(self.asked) - 1])
        if len(self.asked) < len(self._scripts):
            call.die()
        else:
            call.wait_for_end()
            self.closed.set()
        return {}

    @property
    def since(self) -> list[str | None]:
        return [params["since"] for params in self.asked]


def blocking(stack: Path, count: int, **options: Any) -> list[Event]:
    """Return the first events of a feed."""
    with watch(stack, **options) as events:
        return list(islice(events, count))


def asynchronous(stack: Path, count: int, **options: Any) -> list[Event]:
    async def work() -> list[Event]:
        async with awatch(stack, **options) as events:
            return [await anext(events) for _ in range(count)]

    return anyio.run(work)


both = pytest.mark.parametrize("take", [blocking, asynchronous])


@both
def test_events_come_as_types(daemon: FakeDaemon, project: Path, take: Any) -> None:
    made = event("checkpoint", 3, id="0a", message="it works", mode="rotate")
    script = (ready(1), changed(2, "a"), made, event("sync", 4), event("quota", 5, used=1))
    daemon.answers["feed.subscribe"] = Sessions(script)
    assert take(project, 5) == [
        Ready("e.1.1", 1, "web", b"/p/.envstack/merged", None, fresh=False),
        Changes("e.1.2", 2, (Change(b"a", ChangeType.MODIFIED, FileKind.FILE),)),
        CheckpointMade("e.1.3", 3, "0a", "it works", "rotate"),
        Synced("e.1.4", 4),
        Unknown("e.1.5", 5, "quota"),
    ]


@both
def test_a_feed_is_asked_for_as_it_is_wanted(daemon: FakeDaemon, project: Path, take: Any) -> None:
    daemon.answers["feed.subscribe"] = told = Sessions((ready(),), (ready(),))
    take(project, 1, since="e.1.0", ignore=["*.o"], prefix=project / "a")
    take(project / "other.yaml", 1)
    stack, other = str(project / "envstack.yaml"), str(project / "other.yaml")
    assert told.asked == [
        {"stack": stack, "since": "e.1.0", "ignore": ["*.o"], "prefix": str(project / "a")},
        {"stack": other, "since": None, "ignore": [], "prefix": None},
    ]


def test_one_pattern_is_not_taken_for_many(project: Path) -> None:
    with pytest.raises(UsageError, match="list of patterns"), watch(project, ignore="*.o"):
        pass


@both
def test_it_goes_on_after_the_last_event_that_was_taken(
    daemon: FakeDaemon, project: Path, take: Any
) -> None:
    daemon.answers["feed.subscribe"] = told = Sessions(
        (), (ready(1), changed(2, "a"), changed(3, "b")), (ready(3),), (ready(3), changed(4, "c"))
    )
    assert [told.seq for told in take(project, 6)] == [1, 2, 3, 3, 3, 4]
    assert told.since == [None, None, "e.1.3", "e.1.3"]


def test_half_a_difference_from_the_head_is_asked_for_again(
    daemon: FakeDaemon, project: Path
) -> None:
    fresh = (ready(9, fresh=True), changed(9, "a"))
    daemon.answers["feed.subscribe"] = told = Sessions(
        fresh, (*fresh, changed(9, "b"), changed(10, "c")), (ready(10),)
    )
    assert len(blocking(project, 7, since="e.0.1")) == 7
    assert told.since == ["e.0.1", "e.0.1", "e.1.10"]


@both
def test_a_daemon_that_ends_again_and_again_is_given_up(
    daemon: FakeDaemon, project: Path, take: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "_PAUSE", 0.0)
    daemon.answers["feed.subscribe"] = told = Sessions(*[(ready(7),)] * 20)
    with pytest.raises(NoDaemon, match="ended 10 times in a row"):
        take(project, 100)
    assert len(told.asked) == 11, "the first of them told where it begins"


@both
@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (NotUp("it is not up"), RemoteError, "not up"),
        (Cancelled("the request was cancelled"), NoDaemon, "the daemon was stopped"),
        ({}, NoDaemon, "has ended the feed"),
    ],
)
def test_what_the_daemon_says_against_it_ends_it(
    daemon: FakeDaemon, project: Path, take: Any, answer: Any, error: type[Exception], text: str
) -> None:
    daemon.answers["feed.subscribe"] = answer
    with pytest.raises(error, match=text):
        take(project, 1)


@both
def test_it_starts_no_daemon_to_begin_with(home: Path, project: Path, take: Any) -> None:
    with pytest.raises(NotRunning):
        take(project, 1)
    assert not home.exists()


def waited_for(stack: Path, end: Callable[[Feed], None]) -> list[Event]:
    """Return what comes after the first event until `end`, called in another thread, ends it."""
    with watch(stack) as events:
        assert isinstance(next(events), Ready)
        other = threading.Thread(target=end, args=[events])
        other.start()
        try:
            return list(events)
        finally:
            other.join()


def test_another_thread_may_end_it_at_once(daemon: FakeDaemon, project: Path) -> None:
    daemon.answers["feed.subscribe"] = told = Sessions((ready(),))
    assert waited_for(project, Feed.stop) == []
    assert told.closed.wait(WITHIN)


def test_ctrl_c_ends_it_at_once(daemon: FakeDaemon, project: Path) -> None:
    daemon.answers["feed.subscribe"] = told = Sessions((ready(),))
    waiting = threading.get_ident()
    with pytest.raises(KeyboardInterrupt):
        waited_for(project, lambda _: signal.pthread_kill(waiting, signal.SIGINT))
    assert told.closed.wait(WITHIN)


def test_a_task_that_is_cancelled_waits_for_nothing_more(daemon: FakeDaemon, project: Path) -> None:
    daemon.answers["feed.subscribe"] = told = Sessions((ready(),))

    async def work() -> None:
        with anyio.CancelScope() as scope:
            async with awatch(project) as events:
                assert isinstance(await anext(events), Ready)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anext, events)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()

    anyio.run(work)
    assert told.closed.wait(WITHIN)


def test_another_task_may_end_it(daemon: FakeDaemon, project: Path) -> None:
    daemon.answers["feed.subscribe"] = Sessions((ready(),))

    async def work() -> None:
        async with awatch(project) as events, anyio.create_task_group() as tasks:
            assert isinstance(await anext(events), Ready)

            async def end() -> None:
                await anyio.wait_all_tasks_blocked()
                events.stop()

            tasks.start_soon(end)
            assert [event async for event in events] == []

    anyio.run(work)


def test_what_nobody_takes_stays_with_the_daemon(daemon: FakeDaemon, project: Path) -> None:
    line = messages.encode(
        messages.Notification("event", {"subscription": 2, **changed(1, *["x" * 200] * 1000)})
    )
    sent: list[int] = []
    full = threading.Event()

    def flood(call: FakeCall) -> Json:
        call.tell(ready())
        call.connection.settimeout(0)
        try:
            while sum(sent) < 100 * len(line):
                sent.append(call.connection.send(line))
        except BlockingIOError:
            full.set()
        call.connection.settimeout(WITHIN)
        call.wait_for_end()
        return {}

    daemon.answers["feed.subscribe"] = flood
    with watch(project) as events:
        assert isinstance(next(events), Ready)
        assert full.wait(WITHIN), "it took all that there was"


def test_a_daemon_that_is_gone_for_good_is_said_to_be(
    home: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "_PAUSE", 0.0)
    monkeypatch.setattr(client.process, "own_command", lambda: ("false",))
    with FakeDaemon(home) as daemon:

        def vanish(call: FakeCall) -> Json:
            (home / "daemon.sock").unlink()
            call.tell(ready())
            call.die()
            return {}

        daemon.answers["feed.subscribe"] = vanish
        with watch(project) as events, pytest.raises(NoDaemon, match="did not start"):
            list(events)


def test_sync_returns_a_place(daemon: FakeDaemon, project: Path) -> None:
    daemon.answers["feed.sync"] = {"cursor": "e.1.7", "seq": 7}
    assert sync(project) == Synced("e.1.7", 7)
    assert daemon.calls[-1] == ("feed.sync", {"stack": str(project / "envstack.yaml")})


def test_who_waits_for_events_needs_no_event_loop() -> None:
    slow = "{'anyio','asyncio','pydantic','typer','rich','yaml','sqlite3','subprocess','logging'}"
    code = f"import sys; from envstack.client import watch, sync; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_all_that_is_promised_can_be_imported() -> None:
    assert all(getattr(client, name) for name in client.__all__)
    with pytest.raises(AttributeError, match="no attribute 'wach'"):
        client.wach  # type: ignore[attr-defined]  # noqa: B018
