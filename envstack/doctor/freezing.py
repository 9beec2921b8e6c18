"""How commands can be made to stand still for a checkpoint: tried with an empty group."""

from __future__ import annotations

import os
import time
from secrets import token_hex

from envstack.doctor.check import Check, limited, ok
from envstack.linux import cgroup

_NAME = "freezing"
_WITHIN = 5.0
_WAYS = {cgroup.V2: "by cgroup v2", cgroup.V1: "by the freezer of cgroup v1"}
_HINT = "commands are stopped by SIGSTOP instead; to be spared that, mount or delegate cgroup2"


def check() -> Check:
    """Make a group below the cgroup of this process, freeze it, and remove it."""
    family = token_hex(8).encode()
    group = cgroup.make(family, b"trial")
    if group is None:
        return limited(_NAME, "no cgroup can be made here", _HINT)
    try:
        group.freeze()
        if group.stands_still(time.monotonic() + _WITHIN):
            place = os.fsdecode(os.path.dirname(os.path.dirname(group.path)))
            return ok(_NAME, f"{_WAYS[group.kind]}, below {place}")
        return limited(_NAME, f"not {_WAYS[group.kind]}, which does not answer", _HINT)
    except OSError as error:
        return limited(_NAME, f"not {_WAYS[group.kind]}: {error.strerror}", _HINT)
    finally:
        group.thaw()
        group.remove()
        cgroup.forget(family)
