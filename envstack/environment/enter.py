"""`run` and `shell`: what a command in the merged tree is given. It is started by who asks."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING

from envstack.environment.context import require_mount
from envstack.linux.syscalls import open_in_root
from envstack.model import Entrance

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.model import Environment

_SHELL = b"bin/sh"
_NONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)


def enter(ctx: Context, env: Environment) -> Entrance:
    """Return where a command runs, with which variables, and which group it has to join.

    The stack file counts as it was brought up. Raises NotUp, and StateError where the merged tree
    cannot be seen.
    """
    require_mount(env)
    written = json.loads(env.stack)
    said = written.get("root")
    is_root = _has_shell(env.mount) if said is None else bool(said)
    group = ctx.groups.enter(env.id)
    variables = {
        **written["env"],
        **({} if group else ctx.groups.mark(env.id)),
        "ENVSTACK_ENV": env.name,
        "ENVSTACK_MOUNT": "/" if is_root else os.fsdecode(env.mount),
    }
    return Entrance(env, variables, is_root, group.entrance if group else None)


def _has_shell(tree: bytes) -> bool:
    """Tell whether a tree is a root file system: it has a shell where every system has one."""
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        shell = open_in_root(root, _SHELL, os.O_PATH)
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return False
    finally:
        os.close(root)
    try:
        mode = os.fstat(shell).st_mode
        return stat.S_ISREG(mode) and bool(mode & 0o111)
    finally:
        os.close(shell)
