"""An archive becomes a tree: which of its members an archive may bring, and under which names.

Setuid and setgid bits are kept (the store is its owner's alone), device nodes are refused: an image
may bring them, an archive of files has no use for one. A name that begins with `.wh.` is a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envstack.archive.formats import members
from envstack.archive.member import Kind
from envstack.archive.writer import Writer, clean

if TYPE_CHECKING:
    from envstack.archive.member import Member
    from envstack.archive.reading import Reading


def unpack(file: int, tree: bytes, reading: Reading, strip: int = 0) -> None:
    """Make what the archive that `file` is open on holds in the empty directory `tree`.

    Of each name the first `strip` parts are left out, and what has no more than those. Raises
    Damaged, Unsafe, Unsupported, TooLarge, and EnvstackError for what the kernel refuses, each
    naming the member; what was made by then stays.
    """
    with Writer(tree, reading) as writer:
        for member in members(file, reading):
            if member.kind in (Kind.CHARACTER, Kind.BLOCK):
                raise reading.unsafe("it is a device node, which no archive may bring")
            kept = _stripped(member, strip, reading) if strip else member
            if kept is not None:
                writer.put(kept)
    reading.tick()


def _stripped(member: Member, strip: int, reading: Reading) -> Member | None:
    """Return the member under its shorter name, None if nothing is left of that."""
    name = _without(clean(member.name, reading), strip)
    if not name:
        reading.count_entry()  # an archive must not go on for ever with what is left out
        return None
    if member.kind is Kind.LINK:
        return member._replace(name=name, target=_without(clean(member.target, reading), strip))
    return member._replace(name=name)


def _without(path: bytes, strip: int) -> bytes:
    return b"/".join(path.split(b"/")[strip:])
