"""A command whose root directory is the merged tree, or that has no network: by bubblewrap.

Owns the words for bwrap(1), what is seen inside besides the tree, and what bwrap reports. Nobody is
isolated from the rest of the machine by it: processes, users and, unless it is cut, the network are
those of outside, and root keeps its capabilities.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING

from envstack.cli.program import CannotRun
from envstack.errors import EnvstackError
from envstack.linux.syscalls import open_in_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_RESOLVER = b"etc/resolv.conf"
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class NoBubblewrap(EnvstackError):
    """What it takes is not installed."""

    kind = "no-bubblewrap"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a command sees: `root` as its root directory, in which `directory` is absolute.

    `shown` are directories of ours that it finds there read-only, by where.
    """

    root: bytes
    directory: bytes
    has_network: bool
    shown: Mapping[bytes, bytes]

    def words(self, report: int) -> tuple[bytes, ...]:
        """Return bwrap(1) with its arguments, the command's own to follow.

        `report` is a descriptor of a pipe to which it writes, see `Report`. Raises NoBubblewrap.
        """
        program = shutil.which("bwrap")
        if program is None:
            raise NoBubblewrap("bubblewrap is not installed", "apt-get install bubblewrap")
        words = [os.fsencode(program), b"--json-status-fd", b"%d" % report]
        if self.root == b"/":
            words += [b"--dev-bind", b"/", b"/"]
        else:
            words += [b"--bind", self.root, b"/", b"--proc", b"/proc", b"--dev", b"/dev"]
            # With the pseudo-terminals of outside: the user's own is one of them.
            words += [b"--dev-bind", b"/dev/pts", b"/dev/pts"]
            words += [b"--perms", b"1777", b"--tmpfs", b"/tmp"]
            words += self._resolver() if self.has_network else ()
        for where, directory in self.shown.items():
            words += [b"--ro-bind", directory, where]
        words += [] if self.has_network else [b"--unshare-net"]
        return (*words, b"--chdir", self.directory, b"--")

    def check(self, name: bytes, path: bytes) -> None:
        """Raise CannotRun unless `name` is a program inside, looked for in `path`, a PATH."""
        places = [b""] if b"/" in name else path.split(b":")
        found = [mode for place in places for mode in self._modes(os.path.join(place, name))]
        if not any(stat.S_ISREG(mode) and mode & 0o111 for mode in found):
            raise CannotRun(os.fsdecode(name), "envstack run", is_there=bool(found))

    def _modes(self, path: bytes) -> Iterator[int]:
        """Yield the mode of what is at `path` inside, if anything is."""
        root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            inside = os.path.join(self.directory, path).lstrip(b"/") or b"."
            with suppress(OSError):  # whatever keeps us from it keeps it from being executed
                opened = open_in_root(root, inside, os.O_PATH)
                try:
                    yield os.fstat(opened).st_mode
                finally:
                    os.close(opened)
        finally:
            os.close(root)

    def _resolver(self) -> Iterator[bytes]:
        """Yield what makes names be looked up as outside.

        Mounted over the tree's own file: only where there is none is one made, empty.
        """
        outside = os.path.realpath(b"/" + _RESOLVER)
        if os.path.isfile(outside):
            yield from (b"--ro-bind", outside, self._inside(_RESOLVER))

    def _inside(self, path: bytes) -> bytes:
        """Return the path inside of what `path` leads to there, or would if it were there."""
        root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            opened = open_in_root(root, path, os.O_PATH)
            try:
                found = os.readlink(b"/proc/self/fd/%d" % opened)
            finally:
                os.close(opened)
            return b"/" + os.path.relpath(found, os.path.realpath(self.root))
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
        finally:
            os.close(root)
        link = os.path.join(self.root, path)
        target = os.readlink(link) if os.path.islink(link) else os.path.basename(path)
        return os.path.normpath(os.path.join(b"/", os.path.dirname(path), target))


class Report:
    """What bwrap tells of the command, at the reading end of its pipe."""

    def __init__(self, reading: int) -> None:
        self._pipe = FileIO(reading)
        self._said = b""

    def child(self) -> int | None:
        """Wait for the process id of what will be the command; None where bwrap has failed."""
        while b"\n" not in self._said and (more := self._pipe.read(4096)):
            self._said += more
        return self._value("child-pid")

    def has_run(self) -> bool:
        """Tell, when bwrap has ended, whether it has seen the end of a command."""
        self._said += self._pipe.read() or b""
        self._pipe.close()
        return self._value("exit-code") is not None

    def _value(self, key: str) -> int | None:
        for line in self._said.splitlines():
            with suppress(ValueError):
                if key in (row := json.loads(line)):
                    value: int = row[key]
                    return value
        return None
