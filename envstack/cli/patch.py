"""A change as a patch, in the form of git-diff(1), which `git apply` and `patch -p1` take.

Modes are what git knows: executable or not, and symlinks. Directories, owners, attributes and
special files cannot be said in a patch; of a binary file there is a line for people, which git and
patch pass over. Everything is bytes, as files and their names are.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.cli.lines import Span, replaced, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from envstack.cli.sides import File, Pair

_CONTEXT = 3
_NO_NEWLINE = b"\\ No newline at end of file\n"
_NOTHING = b"/dev/null"
_IN_HUNKS = b" +-\\"
"""What the lines of hunks begin with, and those of headers do not where a block ends."""

_ESCAPES = {7: b"a", 8: b"b", 9: b"t", 10: b"n", 11: b"v", 12: b"f", 13: b"r", 34: b'"', 92: b"\\"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a patch, its newline included, with the colour that people see it in."""

    colour: str
    data: bytes


def is_left_out(pair: Pair) -> bool:
    """Tell whether the content changed of what is binary, or too long: no patch carries that."""
    sides = (side for side in (pair.old, pair.new) if side and side.is_content)
    return not pair.same and any(side.text is None for side in sides)


def patches(pairs: Iterable[Pair]) -> Iterator[Line]:
    """Yield the patches of all paths as one.

    The line of a binary file comes before blocks without hunks that would stand right before it:
    git and patch take what follows these for their content, and fail.
    """
    held: list[Line] = []
    for pair in pairs:
        if is_left_out(pair):
            yield from patch(pair)
            continue
        held += patch(pair)
        if held and held[-1].data[:1] in _IN_HUNKS:
            yield from held
            held.clear()
    yield from held


def patch(pair: Pair) -> Iterator[Line]:
    """Yield the patch of one path; nothing where a patch cannot say what changed."""
    old = pair.old if pair.old and pair.old.is_content else None
    new = pair.new if pair.new and pair.new.is_content else None
    if is_left_out(pair):
        yield from _named(pair.path, old, new)
    elif old and new and old.kind != new.kind:
        yield from _block(pair.path, old, None, same=False)
        yield from _block(pair.path, None, new, same=False)
    elif (old or new) and not (pair.same and _mode(old) == _mode(new)):
        yield from _block(pair.path, old, new, same=pair.same)


def _named(path: bytes, old: File | None, new: File | None) -> Iterator[Line]:
    """Yield the line of a binary file, which belongs to no block."""
    a, b = (_quoted(side + path) for side in (b"a/", b"b/"))
    sides = (a if old else _NOTHING, b if new else _NOTHING)
    yield Line("", b"Binary files %s and %s differ\n" % sides)


def _block(path: bytes, old: File | None, new: File | None, *, same: bool) -> Iterator[Line]:
    a, b = _quoted(b"a/" + path), _quoted(b"b/" + path)
    yield Line("bold", b"diff --git %s %s\n" % (a, b))
    yield from _modes(old, new)
    if same:
        return
    one, other = (file.text or b"" if file else b"" for file in (old, new))
    yield _index(old, new)
    if one or other:
        yield Line("bold", b"--- %s\n" % _ended(a if old else _NOTHING))
        yield Line("bold", b"+++ %s\n" % _ended(b if new else _NOTHING))
        yield from _hunks(split(one), split(other))


def _modes(old: File | None, new: File | None) -> Iterator[Line]:
    if old is None and new is not None:
        yield Line("bold", b"new file mode %s\n" % _mode(new))
    elif new is None and old is not None:
        yield Line("bold", b"deleted file mode %s\n" % _mode(old))
    elif _mode(old) != _mode(new):
        yield Line("bold", b"old mode %s\n" % _mode(old))
        yield Line("bold", b"new mode %s\n" % _mode(new))


def _index(old: File | None, new: File | None) -> Line:
    """Return the line with the names that git gives to the contents."""
    names = b"%s..%s" % (_blob(old), _blob(new))
    mode = b" " + _mode(new) if old and new and _mode(old) == _mode(new) else b""
    return Line("bold", b"index %s%s\n" % (names, mode))


def _blob(file: File | None) -> bytes:
    if file is None:
        return b"0" * 40
    data = file.text or b""
    named = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return named.hexdigest().encode("ascii")


def _mode(file: File | None) -> bytes:
    """Return the mode in git's terms."""
    if file is None:
        return b""
    if stat.S_ISLNK(file.mode):
        return b"120000"
    return b"100755" if file.mode & stat.S_IXUSR else b"100644"


def _hunks(a: Sequence[bytes], b: Sequence[bytes]) -> Iterator[Line]:
    for spans in _grouped(replaced(a, b)):
        first, last = spans[0], spans[-1]
        before = min(_CONTEXT, first.a_start)
        after = min(_CONTEXT, len(a) - last.a_stop)
        at, stop = first.a_start - before, last.a_stop + after
        there = first.b_start - before
        sizes = (_range(at, stop), _range(there, last.b_stop + after))
        yield Line("cyan", b"@@ -%s +%s @@\n" % sizes)
        for span in spans:
            yield from _marked(b" ", "", a[at : span.a_start])
            yield from _marked(b"-", "red", a[span.a_start : span.a_stop])
            yield from _marked(b"+", "green", b[span.b_start : span.b_stop])
            at = span.a_stop
        yield from _marked(b" ", "", a[at:stop])


def _grouped(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Yield the spans whose surroundings touch, together."""
    group: list[Span] = []
    for span in spans:
        if group and span.a_start - group[-1].a_stop > 2 * _CONTEXT:
            yield group
            group = []
        group.append(span)
    if group:
        yield group


def _range(start: int, stop: int) -> bytes:
    """Return where a hunk lies; an empty one is named by the line before it."""
    count = stop - start
    if count == 1:
        return b"%d" % (start + 1)
    return b"%d,%d" % (start + 1 if count else start, count)


def _marked(mark: bytes, colour: str, lines: Sequence[bytes]) -> Iterator[Line]:
    for line in lines:
        if line.endswith(b"\n"):
            yield Line(colour, mark + line)
        else:
            yield Line(colour, mark + line + b"\n")
            yield Line("", _NO_NEWLINE)


def _quoted(name: bytes) -> bytes:
    """Return a name as git writes it: quoted where it holds what no line of text may."""
    try:
        plain = name.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        plain = False
    if plain and b'"' not in name and b"\\" not in name:
        return name
    return b'"' + b"".join(map(_escaped, name)) + b'"'


def _escaped(byte: int) -> bytes:
    if byte in _ESCAPES:
        return b"\\" + _ESCAPES[byte]
    return bytes([byte]) if 0x20 <= byte < 0x7F else b"\\%03o" % byte


def _ended(name: bytes) -> bytes:
    """Return a name for a `---` or `+++` line: a tab ends one with a space in it, as git does."""
    return name + b"\t" if b" " in name and not name.startswith(b'"') else name
