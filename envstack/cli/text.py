"""Values as text for people: names that harm no terminal, ages, counts, columns.

Pure functions; nothing here prints or knows of streams.
"""

from __future__ import annotations

import os
import re
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any

from envstack.rpc.shapes import path_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Paint = Callable[[str, str], str]
    """Takes a colour's name and a text, and returns the text in that colour, or as it is."""

Json = dict[str, Any]

COME_OVER = 'a shell comes over with: cd "$PWD"'
"""What those need to know who are in a tree that is not the one at the mount point."""

ID_SHOWN = 8
"""How many digits of an id are shown; a prefix of four is enough to name one."""

_SGR = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
}
"""Colours as ECMA-48 numbers them (console_codes(4))."""

_STATES = {"up": "green", "down": "dim", "degraded": "red"}

_ESCAPE = re.compile("\x1b\\[[0-9]+m")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e"}
_AGES = (
    (365 * 86400, "year"),
    (30 * 86400, "month"),
    (7 * 86400, "week"),
    (86400, "day"),
    (3600, "hour"),
    (60, "minute"),
)


def coloured(colour: str, text: str) -> str:
    """Return `text` in a colour, for a terminal."""
    return f"\x1b[{_SGR[colour]}m{text}\x1b[0m" if text else text


def uncoloured(_colour: str, text: str) -> str:
    """Return `text`, for whatever is no terminal."""
    return text


def escaped(text: str) -> str:
    """Return `text` with escapes for all that a terminal would act upon or not show.

    Controls, invisible and direction-changing characters; what was no UTF-8 is there as `\\xNN`.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    number = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if 0xDC80 <= number <= 0xDCFF:  # how Python carries a byte that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def name(text: str) -> str:
    """Return a file name: as it is where that is plain, else quoted and escaped, as git does."""
    if text.isprintable() and not text.startswith('"') and text == text.strip():
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped(quoted)}"'


def path_of(row: Json, suffix: str = "") -> str:
    """Return the path of a row that has `path`, and `path_b64` where it is not UTF-8."""
    text = os.fsdecode(path_bytes(row)) if row.get("path_b64") else row["path"]
    return name(text + suffix)


def raw_line(line: bytes, colour: str, paint: Paint) -> str:
    """Return a line of a file, in any encoding, as a terminal may see it; tabs stay."""
    cells = line.decode("utf-8", "surrogateescape").removesuffix("\n").split("\t")
    shown = "\t".join(map(escaped, cells))
    return paint(colour, shown) if colour else shown


def revision(value: str, paint: Paint) -> str:
    """Return an id, shortened, or `base`."""
    return paint("yellow", value[:ID_SHOWN])


def title(message: str) -> str:
    """Return the first line of a checkpoint's message."""
    first, more, _rest = message.strip().partition("\n")
    return escaped(first.rstrip()) + (" …" if more else "")


def titled(before: str, title: str, after: str, room: int | None) -> str:
    """Return a line of three texts, with the title cut where they take more than `room` columns."""
    if room is not None:
        others = sum(width(other) + 1 for other in (before, after) if other)
        title = cut(title, max(room - others, 1))
    return " ".join(part for part in (before, title, after) if part)


def cut(text: str, room: int) -> str:
    """Return `text`, not painted, with an ellipsis for what goes beyond `room` columns."""
    if width(text) <= room:
        return text
    ends = accumulate(map(width, text))
    return text[: sum(1 for _ in takewhile(lambda end: end < room, ends))] + "…"


def age(seconds: float) -> str:
    """Return how long ago something was."""
    for size, unit in _AGES:
        if seconds >= size:
            return f"{number_of(int(seconds / size), unit)} ago"
    return "just now" if seconds < 5 else f"{seconds:.0f} seconds ago"


def counts(changes: Json | None, paint: Paint) -> str:
    """Return `+3 ~1 -2`; what nobody has counted yet is an ellipsis."""
    if changes is None:
        return paint("dim", "…")
    signs = (("added", "+", "green"), ("modified", "~", "yellow"), ("deleted", "-", "red"))
    parts = [
        paint(colour, f"{sign}{changes[key]:d}") for key, sign, colour in signs if changes[key]
    ]
    return " ".join(parts) or paint("dim", "=")


def state(word: str, paint: Paint) -> str:
    """Return the state of an environment, in its colour."""
    return paint(_STATES.get(word, "red"), word)


def size(row: Json) -> str:
    """Return the `size` of a row of `ls`, in binary units; an ellipsis while it is not known."""
    if row["size"] is None:
        return "…"
    return ("" if row["size_exact"] else "≥") + _amount(row["size"])


def _amount(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def number_of(count: int, noun: str) -> str:
    """Return `1 layer`, `2 layers`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield each row as a line, its cells (painted or not) under one another."""
    widths = [max(width(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = [cell + " " * (most - width(cell)) for cell, most in zip(row, widths, strict=True)]
        yield "  ".join(padded).rstrip()


def width(cell: str) -> int:
    """Return how many columns of a terminal `cell` takes."""
    plain = _ESCAPE.sub("", cell)
    if plain.isascii():
        return len(plain)
    import unicodedata

    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "FW" else 1
        for char in plain
    )


_DRIFTED = {
    "changed": "changed below the mount",
    "replaced": "is another directory by now",
    "gone": "is gone",
}


def drift(rows: Iterable[Json] | None, paint: Paint) -> Iterator[str]:
    """Yield which layers changed below the mount, one a line, and what to do about it."""
    for row in rows or ():
        what = _DRIFTED.get(row["reason"], escaped(row["reason"]))
        where = ", ".join(path_of(path) for path in row["paths"])
        remedy = "put it back" if row["reason"] == "gone" else "envstack up --relay"
        said = f"layer {escaped(row['name'])} {what}{': ' if where else ''}{where}"
        yield paint("yellow", f"{said} ({remedy})")


def chosen(row: Json, paint: Paint) -> Iterator[str]:
    """Yield in which mode something was done, and why."""
    yield paint("dim", f"{row['mode']}: {escaped(row['reason'])}")


def left_behind(rows: list[Json], paint: Paint) -> Iterator[str]:
    """Yield those whom an exchange of the mount left in the old tree."""
    if rows:
        yield paint("yellow", "left behind in the old tree, which is read-only now:")
        yield from holders(rows, paint)
        yield COME_OVER


def holders(rows: Iterable[Json], paint: Paint) -> Iterator[str]:
    """Yield who is inside a merged tree, one thing held a line."""
    header = [paint("dim", word) for word in ("PID", "COMMAND", "USER", "HOLDS", "PATH")]
    cells = [
        [
            "-" if row["pid"] is None else str(row["pid"]),
            escaped(row["command"]),
            escaped(row["user"]),
            hold["what"],
            path_of(hold),
        ]
        for row in rows
        for hold in row["holds"]
    ]
    return columns([header, *cells])


def terms(row: Json, paint: Paint) -> Iterator[str]:
    """Yield what a stack file would run and fetch: commands under their layers, and variables."""
    for command in row["commands"]:
        yield f"  {paint('bold', escaped(command['layer']))}:"
        yield from (f"    {escaped(line)}" for line in command["run"].rstrip("\n").split("\n"))
    for fetched in row.get("addresses", []):
        yield f"  {paint('bold', escaped(fetched['layer']))}: {escaped(fetched['address'])}"
    if row["env"] and row["commands"]:
        yield f"  {paint('bold', 'with these variables')}:"
        yield from (f"    {escaped(f'{name}={value}')}" for name, value in row["env"].items())
