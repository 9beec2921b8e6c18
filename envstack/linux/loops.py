"""Loop devices whose bytes are a file of one overlay: no process need have that file open."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from envstack.linux import proc
from envstack.model import Hold, HoldKind

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = b"/sys/block"
_LOOP_GET_STATUS64 = 0x4C05
_STATUS_BYTES = 232
"""Of struct loop_info64; its first field is the device number of the file (linux/loop.h)."""


def loops_on(device: str) -> Iterator[tuple[str, Hold]]:
    """Yield each loop device on a file of the superblock `device`, by its name in /dev.

    One that has no node in /dev cannot be asked.
    """
    major, minor = map(int, device.split(":"))
    for name in os.listdir(_BLOCK):
        if name.startswith(b"loop"):
            # No such file: it stands on nothing. It may change at any time.
            with suppress(OSError):
                path = proc.read(b"%s/%s/loop/backing_file" % (_BLOCK, name)).removesuffix(b"\n")
                if _number(b"/dev/" + name) == os.makedev(major, minor):
                    yield f"/dev/{os.fsdecode(name)}", Hold(HoldKind.LOOP, path)


def _number(node: bytes) -> int:
    """Return the number of the device that the file behind a loop device is on."""
    opened = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = fcntl.ioctl(opened, _LOOP_GET_STATUS64, bytes(_STATUS_BYTES))
    finally:
        os.close(opened)
    return int(struct.unpack_from("Q", status)[0])
