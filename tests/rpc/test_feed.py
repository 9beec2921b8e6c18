"""Events of the feed as types, and as the JSON objects of the contract."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envstack.model import Change, ChangeType, FileKind
from envstack.rpc import feed
from envstack.rpc.messages import ProtocolError

text = st.text(st.characters(codec="utf-8"))
place = {"cursor": text, "seq": st.integers(0, 2**63 - 1)}
names = st.binary(min_size=1).filter(lambda name: b"\0" not in name)
changes = st.builds(Change, names, st.sampled_from(ChangeType), st.sampled_from(FileKind))
KNOWN = {"ready", "changes", "checkpoint", "rollback-begin", "rollback-end", "mount", "sync"}

events = st.one_of(
    st.builds(
        feed.Ready, **place, env=text, mount=names, head=text | st.none(), fresh=st.booleans()
    ),
    st.builds(feed.Changes, **place, changes=st.lists(changes, max_size=4).map(tuple)),
    st.builds(feed.CheckpointMade, **place, id=text, message=text, mode=text),
    st.builds(feed.RollbackBegin, **place, to=text),
    st.builds(feed.RollbackEnd, **place, to=text),
    st.builds(feed.MountChanged, **place, state=text),
    st.builds(feed.Synced, **place),
    st.builds(feed.Unknown, **place, event=text.filter(lambda name: name not in KNOWN)),
)


@given(events)
def test_what_is_told_is_read_back(event: feed.Event) -> None:
    assert feed.from_json(json.loads(json.dumps(feed.to_json(event)))) == event


PLACE = {"cursor": "e.1.7", "seq": 7}
CONTRACT: list[tuple[feed.Event, dict[str, Any]]] = [
    (
        feed.Ready("e.1.7", 7, "web", b"/p/m", None, True),
        {"event": "ready", "env": "web", "mount": "/p/m", "head": None, "fresh": True},
    ),
    (
        feed.Changes("e.1.7", 7, (Change(b"a", ChangeType.ADDED, FileKind.DIR),)),
        {"event": "changes", "changes": [{"path": "a", "change": "added", "kind": "dir"}]},
    ),
    (
        feed.CheckpointMade("e.1.7", 7, "0a", "it works", "rotate"),
        {"event": "checkpoint", "id": "0a", "message": "it works", "mode": "rotate"},
    ),
    (feed.RollbackBegin("e.1.7", 7, "base"), {"event": "rollback-begin", "to": "base"}),
    (feed.RollbackEnd("e.1.7", 7, "0a"), {"event": "rollback-end", "to": "0a"}),
    (feed.MountChanged("e.1.7", 7, "swapped"), {"event": "mount", "state": "swapped"}),
    (feed.Synced("e.1.7", 7), {"event": "sync"}),
]


@pytest.mark.parametrize(("event", "shape"), CONTRACT, ids=lambda value: type(value).__name__)
def test_an_event_is_the_object_of_the_contract(event: feed.Event, shape: dict[str, Any]) -> None:
    assert feed.to_json(event) == {**shape, **PLACE}


def test_a_name_of_any_bytes_has_its_exact_bytes_beside_it() -> None:
    change = Change(b"caf\xe9", ChangeType.DELETED, FileKind.FILE)
    row = feed.to_json(feed.Changes("c", 1, (change,)))["changes"][0]
    assert (row["path"], row["path_b64"]) == ("caf\ufffd", "Y2Fm6Q==")


def test_what_a_newer_daemon_adds_stops_nobody() -> None:
    event = feed.from_json({"event": "quota", "used": 7, **PLACE})
    assert event == feed.Unknown("e.1.7", 7, "quota")
    assert feed.from_json({"event": "sync", "why": "new", **PLACE}) == feed.Synced("e.1.7", 7)


@pytest.mark.parametrize(
    "shape",
    [
        {"event": "sync", "seq": 1},
        {"event": "sync", "cursor": 1, "seq": 1},
        {"event": "sync", "cursor": "c", "seq": "1"},
        {"cursor": "c", "seq": 1},
        {"event": "ready", "env": "web", "mount": "/m", "fresh": True, **PLACE},
        {"event": "ready", "env": "web", "mount": "/m", "head": None, "fresh": 1, **PLACE},
        {"event": "changes", "changes": {}, **PLACE},
        {"event": "changes", "changes": ["a"], **PLACE},
        {"event": "changes", "changes": [["a"]], **PLACE},
        {"event": "changes", "changes": [{"path": "a", "change": "no", "kind": "dir"}], **PLACE},
        {"event": "changes", "changes": [{"change": "added", "kind": "dir"}], **PLACE},
        {"event": "mount", **PLACE},
    ],
    ids=str,
)
def test_an_object_of_another_shape_is_refused(shape: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="no event"):
        feed.from_json(shape)


def test_the_types_import_nothing_that_is_slow_to_start() -> None:
    slow = "{'anyio','asyncio','pydantic','typer','secrets','sqlite3','subprocess'}"
    code = f"import sys; from envstack.rpc import feed; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
