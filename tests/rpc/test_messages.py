"""Messages and lines: what is written is read back, and nothing else is."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envstack import errors
from envstack.model import Hold, Holder, HoldKind
from envstack.rpc import messages
from envstack.rpc.framing import Lines, LineTooLongError
from envstack.rpc.messages import Failure, Notification, ProtocolError, Request, Response
from envstack.rpc.peer import age

text = st.text(st.characters(codec=None))
ids = st.integers() | text
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(text, values, max_size=3)


@given(st.builds(Request, ids, text, objects) | st.builds(Notification, text, objects))
def test_what_is_asked_is_read_back(message: Request | Notification) -> None:
    line = messages.encode(message)
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    assert messages.decode_request(line) == message


@given(
    st.builds(Response, ids, values)
    | st.builds(Failure, ids | st.none(), st.integers(), text, objects)
    | st.builds(Notification, text, objects)
)
def test_what_is_answered_is_read_back(message: Response | Failure | Notification) -> None:
    assert messages.decode_answer(messages.encode(message)) == message


@given(st.binary() | values.map(lambda value: json.dumps(value).encode()))
def test_any_line_is_a_message_or_a_protocol_error(line: bytes) -> None:
    for decode in (messages.decode_request, messages.decode_answer):
        with contextlib.suppress(ProtocolError):
            assert messages.encode(decode(line)).endswith(b"}\n")


@pytest.mark.parametrize(
    "shape",
    [
        {"jsonrpc": "2.0", "id": 1, "method": "ask"},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": 1, "error": "no"},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": "1", "message": ""}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "", "data": []}},
    ],
)
def test_an_answer_of_another_shape_is_refused(shape: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        messages.decode_answer(json.dumps(shape).encode())


def test_what_is_no_json_is_not_written() -> None:
    with pytest.raises(TypeError):
        messages.encode(Response(1, b"bytes"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        messages.encode(Response(1, float("nan")))


def test_an_error_becomes_an_answer_with_all_it_carries() -> None:
    holder = Holder(7, "vi", "root", (Hold(HoldKind.CWD, b"/caf\xe9"),))
    answer = messages.failure(3, errors.Held("somebody is inside", "end it", (holder,)))
    assert (answer.id, answer.code, answer.message) == (3, messages.FAILED, "somebody is inside")
    held = answer.data.pop("holders")
    assert answer.data == {"kind": "held", "hint": "end it", "exit": 4}
    assert held[0]["holds"][0]["path"] == "/caf\ufffd"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Cancelled("stop"), messages.CANCELLED),
        (errors.NotFound("nothing"), messages.FAILED),
        (ProtocolError(messages.INVALID_PARAMS, "wrong"), messages.INVALID_PARAMS),
    ],
)
def test_an_error_has_the_code_that_clients_know(error: errors.EnvstackError, code: int) -> None:
    assert messages.failure(None, error).code == code


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_come_out_whole_however_they_went_in(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    splitter = Lines()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [line for piece in pieces for line in splitter.feed(piece)] == lines


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_over_the_bound_is_refused_after_those_before_it(end: bytes) -> None:
    lines = Lines(limit=4).feed(b"1234\n12345" + end)
    assert next(lines) == b"1234"
    with pytest.raises(LineTooLongError):
        next(lines)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ((1, "0.1.0"), (1, "0.1.1")),
        ((1, "0.9"), (1, "0.10")),
        ((1, "9.0"), (2, "0.1")),
        ((1, "0.1.0"), (1, "1")),
    ],
)
def test_programs_are_ordered_by_protocol_and_then_by_version(
    older: tuple[int, str], newer: tuple[int, str]
) -> None:
    assert age(*older) < age(*newer)


def test_a_development_version_counts_as_its_release() -> None:
    assert age(1, "0.2.0.dev1") == age(1, "0.2.0")


def test_a_file_name_of_any_bytes_survives() -> None:
    name = os.fsdecode(bytes(range(1, 256)).replace(b"/", b""))
    assert messages.decode_answer(messages.encode(Response(1, name))) == Response(1, name)
