"""The real yaml-language-server, spoken to as an editor does: LSP over its standard streams."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Json = dict[str, Any]

PACKAGE = "yaml-language-server@1.25.0"
WITHIN = 60.0


class LanguageServer:
    """A server that has greeted; a context manager. Paths are those of files on disk."""

    def __init__(self, command: Sequence[str], root: Path) -> None:
        self._process = subprocess.Popen(
            command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._last_id = 0
        self._call("initialize", {"processId": None, "rootUri": root.as_uri(), "capabilities": {}})
        self._tell("initialized", {})
        offline = {"schemaStore": {"enable": False}, "completion": True, "hover": True}
        self._tell("workspace/didChangeConfiguration", {"settings": {"yaml": offline}})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("shutdown", None)
            self._tell("exit", None)
            self._process.wait(WITHIN)
        finally:
            self._process.kill()
            self._process.communicate()

    def open(self, path: Path) -> list[Json]:
        """Open a file as it is on disk; return what the server finds wrong with it."""
        document = {
            "uri": path.as_uri(),
            "languageId": "yaml",
            "version": 1,
            "text": path.read_text(),
        }
        self._tell("textDocument/didOpen", {"textDocument": document})
        while True:
            message = self._read()
            if message.get("method") != "textDocument/publishDiagnostics":
                continue
            if message["params"]["uri"] == path.as_uri():  # others may be told of once more
                diagnostics: list[Json] = message["params"]["diagnostics"]
                return diagnostics

    def completions(self, path: Path, line: int, column: int) -> set[str]:
        """Return the words offered at a place, numbered from 0."""
        answer = self._call("textDocument/completion", _place(path, line, column))
        items = answer["items"] if isinstance(answer, dict) else answer
        return {item["label"] for item in items}

    def hover(self, path: Path, line: int, column: int) -> str:
        """Return what is shown where the mouse rests at a place, numbered from 0."""
        answer = self._call("textDocument/hover", _place(path, line, column))
        return str(answer["contents"]["value"]) if answer else ""

    def _call(self, method: str, params: Any) -> Any:
        self._last_id += 1
        self._send({"id": self._last_id, "method": method, "params": params})
        while True:
            message = self._read()
            if message.get("id") == self._last_id and "method" not in message:
                assert "error" not in message, message
                return message["result"]

    def _tell(self, method: str, params: Any) -> None:
        self._send({"method": method, "params": params})

    def _send(self, message: Json) -> None:
        assert self._process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._process.stdin.flush()

    def _read(self) -> Json:
        """Return the next message; what the server asks of an editor is answered with null."""
        assert self._process.stdout is not None
        length = 0
        while (header := self._process.stdout.readline()) != b"\r\n":
            assert header, "the language server has ended"
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        message: Json = json.loads(self._process.stdout.read(length))
        if "method" in message and "id" in message:
            self._send({"id": message["id"], "result": None})
        return message


def _place(path: Path, line: int, column: int) -> Json:
    return {
        "textDocument": {"uri": path.as_uri()},
        "position": {"line": line, "character": column},
    }
