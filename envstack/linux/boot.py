"""Which boot of the machine is running."""

from __future__ import annotations

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def boot_id() -> str:
    """Return the random id of this boot (proc_sys_kernel(5)); the same until the machine restarts.

    Raises OSError where /proc is not mounted.
    """
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()
