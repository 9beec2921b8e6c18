"""What of a stack file may run and be fetched: what somebody has seen and said yes to.

What is trusted is the content, by digest, for the path of one stack file. A change of a command, of
its layer's name, of the variables that it runs with or of an address asks again; what the files of
the project hold is the user's own affair.
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
    """Return what the stack file would run, and fetch."""
    commands = tuple(
        (entry.name, entry.run) for entry in stack.layers if isinstance(entry, stackfile.RunLayer)
    )
    addresses = tuple(
        (entry.name, os.fsdecode(entry.archive))
        for entry in stack.layers
        if isinstance(entry, stackfile.ArchiveLayer) and entry.is_address
    )
    facts = {"commands": commands, "env": stack.env, "addresses": addresses}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Terms(stack.path, commands, stack.env, digest, addresses)


def trust(ctx: Context, stack: StackFile) -> Terms:
    """Remember that the stack file may run and fetch what it names now."""
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
    """Raise Untrusted unless somebody said yes to what the stack file runs and fetches, if any."""
    asked = terms(stack)
    what = " and ".join(
        words
        for words, is_asked in (
            ("runs commands", asked.commands),
            ("fetches archives", asked.addresses),
        )
        if is_asked
    )
    if what and not ctx.store.trust.has(asked.stack_path, asked.digest):
        raise Untrusted(
            f"{os.fsdecode(asked.stack_path)} {what} that nobody has said yes to",
            "read them, then: envstack trust, or envstack up --trust",
            asked,
        )
