"""The text of a stack file, and faults in it as a user reads them: position, line and caret.

Owns the way from bytes to text. Knows nothing of YAML.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envstack.errors import StackFileError

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZE_LIMIT = 1 << 20
"""The largest stack file in bytes."""

FAULT_LIMIT = 100
"""How many faults are reported: a hostile file has one a byte."""

_MESSAGE_LIMIT = 300
"""How many characters of a message are kept: it may quote what the file says."""

_CONTEXT = 60
"""How many characters of a long line are shown on each side of a fault."""

_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""YAML 1.1, section 5.1: what no YAML text may hold."""

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What YAML 1.1 counts as the end of a line; editors agree about the first three."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the text; line and column count characters from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong, and where."""

    at: Position
    message: str


@dataclass(frozen=True, slots=True)
class Source:
    """The text of the stack file at `path`, without a byte order mark."""

    path: bytes
    text: str

    def position(self, offset: int) -> Position:
        """Return where the character number `offset` of the text, from 0, stands."""
        lines = _BREAK.split(self.text[:offset])
        return Position(len(lines), len(lines[-1]) + 1)

    def error(self, faults: Iterable[Fault]) -> StackFileError:
        """Return the error that reports `faults`, in the order of the text."""
        found = sorted(set(faults))
        shown = [replace(fault, message=_brief(fault.message)) for fault in found[:FAULT_LIMIT]]
        lines = _BREAK.split(self.text, maxsplit=max(fault.at.line for fault in shown))
        name = printable(os.path.basename(self.path).decode("utf-8", "replace"))
        report = [f"{name}:{_block(fault, lines)}" for fault in shown]
        if len(found) > len(shown):
            report.append(f"and {len(found) - len(shown)} more")
        file = self.path.decode("utf-8", "replace")
        return StackFileError(
            "\n".join(report),
            faults=tuple(
                {
                    "file": file,
                    "line": fault.at.line,
                    "column": fault.at.column,
                    "message": fault.message,
                }
                for fault in shown
            ),
        )


def decode(data: bytes, path: bytes) -> Source:
    """Return the text of `data`, which is UTF-8 with or without a byte order mark.

    Raises StackFileError where it is too large, not UTF-8, or holds what YAML text may not hold.
    """
    if len(data) > SIZE_LIMIT:
        raise Source(path, "").error([Fault(Position(), "the file is larger than 1 MiB")])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        message = "the file is UTF-16: save it as UTF-8"
        raise Source(path, "").error([Fault(Position(), message)])
    try:
        source = Source(path, data.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        source = Source(path, data.decode("utf-8", "replace").removeprefix("\ufeff"))
        before = data[: error.start].decode("utf-8").removeprefix("\ufeff")
        message = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise source.error([Fault(source.position(len(before)), message)]) from None
    control = _NOT_YAML.search(source.text)
    if control:
        message = f"character U+{ord(control[0]):04X} is not allowed in YAML"
        raise source.error([Fault(source.position(control.start()), message)])
    return source


def printable(text: str) -> str:
    """Return `text` with U+FFFD for whatever a terminal would not print or would act upon."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _brief(message: str) -> str:
    kept = printable(message[:_MESSAGE_LIMIT])
    return kept if len(message) <= _MESSAGE_LIMIT else f"{kept}…"


def _block(fault: Fault, lines: list[str]) -> str:
    """Return `LINE:COLUMN: what` and below it the line with a caret, if there is a line to show."""
    head = f"{fault.at.line}:{fault.at.column}: {fault.message}"
    # libyaml counts one line too many at the end of a text without a final line break.
    line = lines[fault.at.line - 1] if fault.at.line <= len(lines) else ""
    column = fault.at.column - 1
    before, after = line[max(0, column - _CONTEXT) : column], line[column : column + _CONTEXT]
    if not (before + after).strip():
        return head
    before = ("…" if column > _CONTEXT else "") + printable(before.replace("\t", " "))
    after = printable(after.replace("\t", " ")) + ("…" if column + _CONTEXT < len(line) else "")
    indent = "".join(_blank(char) for char in before)
    return f"{head}\n    {before}{after}\n    {indent}^"


def _blank(char: str) -> str:
    """Return a space as wide as `char`, so that the caret stands right after East Asian text."""
    return "\u3000" if unicodedata.east_asian_width(char) in "FW" else " "
