"""The stack file that a request names, read where it lies by now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack import stackfile
from envstack.environment.context import moved
from envstack.errors import NotFound
from envstack.linux.mountinfo import read_mounts

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.model import Environment
    from envstack.stackfile import StackFile


def load(ctx: Context, path: bytes, env: Environment | None) -> StackFile:
    """Return the stack file at `path`: the one below, where `env`, which it made, covers it.

    Raises StateError where the project was moved, and what `stackfile.load` raises.
    """
    if env is None:
        return stackfile.load(path)
    if away := moved(env, read_mounts()):
        raise away
    try:
        return stackfile.load(path, ctx.beneath.reach(env, env.project))
    except NotFound as error:
        way_out = f"put it back, or: envstack down {os.fsdecode(path)}"
        raise NotFound(error.message, way_out) from error
