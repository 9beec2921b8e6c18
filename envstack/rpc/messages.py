"""JSON-RPC 2.0 messages as values: what may stand on a line of the socket, and how it reads.

No input and output here, and nothing that takes long to import: every command pays for it. Text
may hold lone surrogates (file names that are not UTF-8); they survive the way as escapes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envstack.errors import Cancelled, EnvstackError

if TYPE_CHECKING:
    from typing import NoReturn

PROTOCOL = 1
"""Raised when a message changes so that the other side must know."""

MAX_REQUEST = 1 << 20
"""Bytes that a line sent to the daemon may have."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
FAILED = -32000
"""A request that was understood and failed; `data` says how."""
CANCELLED = -32800
"""As the Language Server Protocol has it, so that its clients understand."""

HELLO = "hello"
CANCEL = "$/cancel"
PROGRESS = "progress"
OUTPUT = "output"

FEED_SUBSCRIBE = "feed.subscribe"
FEED_SYNC = "feed.sync"
EVENT = "event"
"""A notification: a feed object (`rpc.feed`) with the id of its request as `subscription`."""

Id = int | str
Json = dict[str, Any]


class ProtocolError(EnvstackError):
    """A line that is no message, or a message that is out of place.

    `code` is JSON-RPC's; `id` is that of the request at fault, where it could be read.
    """

    kind = "protocol"

    def __init__(self, code: int, message: str, request_id: Id | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.id = request_id


@dataclass(frozen=True, slots=True)
class Request:
    id: Id
    method: str
    params: Json


@dataclass(frozen=True, slots=True)
class Notification:
    method: str
    params: Json


@dataclass(frozen=True, slots=True)
class Response:
    id: Id | None
    result: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """The answer to a request that failed; `data` is `{kind, hint, exit}` and more, by kind."""

    id: Id | None
    code: int
    message: str
    data: Json


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request has come; `done` of `total` in a unit that `message` makes plain."""

    message: str
    done: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """What a command printed that a request runs; the texts of a request make one stream."""

    text: str


Message = Request | Notification | Response | Failure


def encode(message: Message) -> bytes:
    """Return `message` as a line, its newline included; TypeError or ValueError: not JSON."""
    shape: Json = {"jsonrpc": "2.0"}
    match message:
        case Request(request_id, method, params):
            shape |= {"id": request_id, "method": method, "params": params}
        case Notification(method, params):
            shape |= {"method": method, "params": params}
        case Response(request_id, result):
            shape |= {"id": request_id, "result": result}
        case Failure(request_id, code, text, data):
            error = {"code": code, "message": text, "data": data}
            shape |= {"id": request_id, "error": error}
    return json.dumps(shape, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def failure(request_id: Id | None, error: EnvstackError) -> Failure:
    """Return the answer that carries `error`."""
    # Imported late: the daemon alone needs it, and clients start faster without.
    from envstack.rpc.shapes import error as error_shape

    data = error_shape(error)
    message = data.pop("message")
    data["exit"] = error.exit_code
    code = CANCELLED if isinstance(error, Cancelled) else getattr(error, "code", FAILED)
    return Failure(request_id, code, message, data)


def progress(request_id: Id, value: Progress) -> Notification:
    """Return the notification that says how far the request has come."""
    params = {"message": value.message, "done": value.done, "total": value.total}
    return Notification(PROGRESS, {"id": request_id, **params})


def output(request_id: Id, value: Output) -> Notification:
    """Return the notification that carries what a command printed."""
    return Notification(OUTPUT, {"id": request_id, "text": value.text})


def decode_request(line: bytes) -> Request | Notification:
    """Return the request or notification on `line`; raises ProtocolError."""
    return _request(_object(line))


def _request(shape: Json) -> Request | Notification:
    request_id = _id(shape)
    method = shape.get("method")
    if shape.get("jsonrpc") != "2.0" or not isinstance(method, str):
        raise ProtocolError(INVALID_REQUEST, "this is no JSON-RPC 2.0 request", request_id)
    params = shape.get("params", {})
    if not isinstance(params, dict):
        raise ProtocolError(INVALID_PARAMS, "the params of a request are an object", request_id)
    if request_id is None:
        return Notification(method, params)
    return Request(request_id, method, params)


def decode_answer(line: bytes) -> Response | Failure | Notification:
    """Return the answer or notification on `line`; raises ProtocolError."""
    shape = _object(line)
    if "method" in shape:
        notification = _request(shape)
        if isinstance(notification, Request):
            raise ProtocolError(INVALID_REQUEST, "the daemon asks nothing of its clients")
        return notification
    if "result" in shape:
        return Response(_id(shape), shape["result"])
    error = shape.get("error")
    if not isinstance(error, dict):
        raise ProtocolError(INVALID_REQUEST, "this is no JSON-RPC 2.0 answer")
    code, message, data = error.get("code"), error.get("message"), error.get("data", {})
    if not isinstance(code, int) or not isinstance(message, str) or not isinstance(data, dict):
        raise ProtocolError(INVALID_REQUEST, "this is no JSON-RPC 2.0 error")
    return Failure(_id(shape), code, message, data)


def _object(line: bytes) -> Json:
    try:
        shape = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(PARSE_ERROR, f"a line is no JSON: {error}") from error
    if not isinstance(shape, dict):
        raise ProtocolError(INVALID_REQUEST, "a message is one JSON object a line")
    return shape


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _id(shape: Json) -> Id | None:
    """Return the id, None where there is none; an answer to nobody in particular has null."""
    request_id = shape.get("id")
    if request_id is None and ("id" not in shape or "method" not in shape):
        return None
    if isinstance(request_id, bool) or not isinstance(request_id, (int, str)):
        raise ProtocolError(INVALID_REQUEST, "the id of a request is an integer or a string")
    return request_id
