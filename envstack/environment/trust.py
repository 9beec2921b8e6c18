"""Which commands of a stack file may run: those that somebody has seen and said yes to.

What is trusted is the content, by digest, for the path of one stack file. A change of a command, of
its layer's name or of the variables that it runs with asks again; what the files of the project
hold is the user's own affair.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

from envstack import stackfile
from envstack.environment.context import now
from envstack.errors import NotFound, Untrusted
from envstack.model import Terms

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.stackfile import StackFile


def terms(stack: StackFile) -> Terms:
    """Return what the stack file would run."""
    commands = tuple(
        (entry.name, entry.run) for entry in stack.layers if isinstance(entry, stackfile.RunLayer)
    )
    content = json.dumps({"commands": commands, "env": stack.env}, sort_keys=True)
    return Terms(stack.path, commands, stack.env, hashlib.sha256(content.encode()).hexdigest())


def trust(ctx: Context, stack: StackFile) -> Terms:
    """Remember that the commands of the stack file, as they are now, may run."""
    asked = terms(stack)
    ctx.store.trust.add(asked.stack_path, asked.digest, now())
    return asked


def revoke(ctx: Context, stack_path: bytes) -> int:
    """Forget every yes for a stack file and return how many there were; NotFound if none."""
    count = ctx.store.trust.revoke(stack_path)
    if not count:
        raise NotFound(f"{os.fsdecode(stack_path)} is not trusted", "envstack trust --list")
    return count


def require_trusted(ctx: Context, stack: StackFile) -> None:
    """Raise Untrusted unless somebody said yes to the commands of the stack file, if it has any."""
    asked = terms(stack)
    if asked.commands and not ctx.store.trust.has(asked.stack_path, asked.digest):
        raise Untrusted(
            f"{os.fsdecode(asked.stack_path)} runs commands that nobody has said yes to",
            "read them, then: envstack trust, or envstack up --trust",
            asked,
        )
