"""One archive being read: how much of it there was and may be, and what is said of its members."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from envstack.errors import Damaged, EnvstackError, TooLarge, Unsafe, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from envstack.stackfile.limits import ArchiveLimits

_TICK = 256
"""Entries between two calls of `tick`."""
_RATIO_FROM = 64 << 20
"""Bytes: what expands to no more than this is let in whatever it is made from."""
_SHOWN = 200
"""Characters of a name that a message shows."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}

_DAMAGED = "get it again, and compare its sha256 with the publisher's"
_UNSAFE = "use no archive that holds this: nothing of it was kept"


class Reading:
    """`name` is what messages call the archive, `member` the one that is being read.

    `tick` is called with the number of entries so far, now and then; what it raises ends the
    reading. The other methods return the error that says what is wrong with the member.
    """

    def __init__(self, name: str, limits: ArchiveLimits, tick: Callable[[int], None]) -> None:
        self.limits = limits
        self.member = b""
        self.entries = 0
        self._name = name
        self._tick = tick
        self._bytes = 0

    def tick(self) -> None:
        """Tell how far it is."""
        self._tick(self.entries)

    def count_entry(self) -> None:
        """Count something that is made, or a header that makes nothing; raises TooLarge."""
        self.entries += 1
        if self.entries > self.limits.members:
            raise self.too_large(f"more than {self.limits.members:,} entries", "max_members")
        if self.entries % _TICK == 0:
            self.tick()

    def count_bytes(self, size: int) -> None:
        """Count a file of that size, before it is made; raises TooLarge."""
        self._bytes += size
        if self._bytes > self.limits.bytes:
            raise self._too_many_bytes()

    def compare(self, expanded: int, compressed: int) -> None:
        """Take note how many bytes came of how many; raises TooLarge."""
        if expanded > self.limits.bytes:
            raise self._too_many_bytes()
        if expanded > max(_RATIO_FROM, compressed * self.limits.ratio):
            ratio = self.limits.ratio
            raise self.too_large(f"expands to more than {ratio:,} times its size", "max_ratio")

    def damaged(self, what: str) -> Damaged:
        return Damaged(self._sentence(what), _DAMAGED)

    def unsafe(self, what: str) -> Unsafe:
        return Unsafe(self._sentence(what), _UNSAFE)

    def unsupported(self, what: str, hint: str = "") -> Unsupported:
        return Unsupported(self._sentence(what), hint)

    def too_large(self, what: str, key: str) -> TooLarge:
        hint = (
            f"if you trust it: raise `archive: {{{key}: …}}` in config.yaml, and restart the daemon"
        )
        return TooLarge(self._sentence(what), hint)

    def failed(self, error: OSError) -> EnvstackError:
        """Return what the kernel answered, as an error about the member."""
        return EnvstackError(self._sentence(error.strerror or str(error)), _hint(error))

    def _too_many_bytes(self) -> TooLarge:
        return self.too_large(f"more than {self.limits.bytes >> 20:,} MiB in all", "max_mib")

    def _sentence(self, what: str) -> str:
        return f"{self._name}: {f'{shown(self.member)}: ' if self.member else ''}{what}"


def shown(name: bytes) -> str:
    """Return a member's name for a message."""
    text = name.decode("utf-8", "backslashreplace")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _hint(error: OSError) -> str:
    return "free some space for the store" if error.errno in _NO_SPACE else ""
