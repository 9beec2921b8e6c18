"""A machine whose power is cut: a store on a disk that can be copied in an instant.

The disk is a file on a file system with reflinks. A copy of the file holds what was written to the
disk by then, and nothing of what still waited in memory: it is what a power cut would have left.
"""

from __future__ import annotations

import fcntl
import subprocess
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from tests.crash.crashbox import Crashbox
from tests.support import filesystems

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.nursery import Nursery
    from tests.support.ground import Ground

_FICLONE = 0x40049409
_VAULT_BYTES = 4 << 30
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Machine:
    """`box` is a project whose store lies on a disk with a file system of `kind`.

    The context ends with everything gone.
    """

    def __init__(self, kind: str, ground: Ground, nursery: Nursery) -> None:
        self.kind = kind
        self._ground = ground
        self._nursery = nursery
        self._stack = ExitStack()
        self._cuts = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            place = self._ground.fresh("v")
            self._vault = stack.enter_context(filesystems.mounted("xfs", place, _VAULT_BYTES))
            self._point = self._ground.fresh("s")
            self._point.mkdir()
            stack.callback(self._point.rmdir)
            self.box = Crashbox(self._ground.fresh("c"), self._nursery, self._point / "home")
            stack.callback(self.box.close)
            disk = self._vault / "disk"
            filesystems.make(self.kind, disk)
            self._power_on(disk)
            stack.callback(self._power_off)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cut(self) -> Path:
        """Return the disk as a power cut at this instant would leave it; the machine goes on."""
        self._cuts += 1
        copy = self._vault / f"cut-{self._cuts}"
        with self._disk.open("rb") as source, copy.open("wb") as target:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        return copy

    def boot(self, disk: Path) -> dict[str, Any] | None:
        """Start with this disk, as another boot, and return what the daemon said of its start."""
        self._power_off()
        self._power_on(disk)
        fresh = self._vault / "boot_id"
        fresh.write_text(f"{uuid.uuid4()}\n")
        subprocess.run(["mount", "--bind", fresh, _BOOT_ID], check=True)
        return self.box.start()

    def _power_on(self, disk: Path) -> None:
        filesystems.mount_image(self.kind, disk, self._point)
        self._disk = disk

    def _power_off(self) -> None:
        self.box.end()
        if _is_bound(_BOOT_ID):
            subprocess.run(["umount", _BOOT_ID], check=True)
        filesystems.unmount(self._disk, self._point)


def _is_bound(path: str) -> bool:
    with open("/proc/self/mountinfo") as table:
        return any(line.split(" ")[4] == path for line in table)
