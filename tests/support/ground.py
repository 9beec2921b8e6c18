"""The ground that one pytest session stands on: its mount namespace, its directory, its sweep.

Everything that tests make lies below `Ground.root`, and every process that they start has that path
in its environment; so whatever outlives its test is found at the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from envstack.linux import syscalls
from tests.support import trees, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "ENVSTACK_TEST_GROUND"


@dataclass(slots=True)
class Ground:
    """A session's place. `isolated` says whether it has a mount namespace to itself."""

    root: Path
    isolated: bool = False
    _count: int = field(default=0)
    _inherited: frozenset[bytes] = field(default=frozenset())

    @classmethod
    def prepare(cls) -> Ground:
        """Make the directory, and point envstack at it for tests that name no store themselves.

        The path is short, because a socket's holds 107 bytes (unix(7)).
        """
        root = Path(tempfile.mkdtemp(prefix="es-")).resolve()
        os.environ[MARK] = str(root)
        os.environ["ENVSTACK_HOME"] = str(root / "unnamed")
        return cls(root)

    def isolate(self) -> None:
        """Move this process into a mount namespace of its own that tells nobody of its mounts.

        Raises OSError where that is not allowed. Call it while there is one thread.
        """
        syscalls.unshare(syscalls.CLONE_NEWNS)
        set_propagation("private")
        self.isolated = True
        # Environments of whoever runs the tests came along; they are not ours to miss.
        self._inherited = frozenset(mount_id for mount_id, _, _ in _mount_table())

    def fresh(self, stem: str) -> Path:
        """Return a path below the root that does not exist yet."""
        self._count += 1
        return self.root / f"{stem}{self._count}"

    def leftovers(self) -> list[str]:
        """Return what tests left behind: mounts, processes, loop devices, files; one line each."""
        return [
            *(f"mount at {os.fsdecode(path)}" for path in self._mounts()),
            *(f"process {pid}: {_command(pid)}" for pid in self._processes()),
            *(f"loop device {name}" for name in self._loops()),
            *(f"file {self.root / name}" for name in sorted(os.listdir(self.root))),
        ]

    def clear(self) -> None:
        """End and remove all that is left, so that a failed session harms nobody."""
        for pid in self._processes():
            waiting.kill(pid, signal.SIGKILL, f"process {pid}")
        for path in reversed(self._mounts()):
            syscalls.umount(path, syscalls.MNT_DETACH)
        for name in self._loops():
            subprocess.run(["losetup", "--detach", f"/dev/{name}"], check=True)
        trees.remove(self.root)

    def _mounts(self) -> list[bytes]:
        """Return mount points that are ours, oldest first."""
        below = os.fsencode(self.root) + b"/"
        return [
            point
            for mount_id, point, source in _mount_table()
            if mount_id not in self._inherited
            and (point.startswith(below) or (self.isolated and source.startswith(b"envstack:")))
        ]

    def _processes(self) -> list[int]:
        mark = f"{MARK}={self.root}".encode()
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [pid for pid in pids if pid != os.getpid() and mark in _environment(pid)]

    def _loops(self) -> list[str]:
        found = []
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                path = backing.read_text()
            except FileNotFoundError:
                continue  # detached since the listing
            if path.startswith(f"{self.root}/"):
                found.append(backing.parts[3])
        return found


def set_propagation(kind: str) -> None:
    """Make every mount of this namespace "private" or "shared" (mount_namespaces(7))."""
    flags = {"private": syscalls.MS_PRIVATE, "shared": syscalls.MS_SHARED}
    syscalls.set_propagation(b"/", syscalls.MS_REC | flags[kind])


def _mount_table() -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield id, mount point and source of every mount, oldest first (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        left, _, right = line.partition(b" - ")
        fields = left.split(b" ")
        yield fields[0], _unescaped(fields[4]), right.split(b" ")[1]


def _unescaped(field: bytes) -> bytes:
    return field.decode("unicode_escape").encode("latin-1")


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # gone since the listing, or another user's: then it is not ours


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "gone since"
    return b" ".join(words).decode(errors="replace")
