"""The way from a command to the daemon of this user."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from envstack.client import NotRunning, connect, connect_or_start
from envstack.errors import NotUp, Unsupported
from envstack.rpc.places import Places, places

if TYPE_CHECKING:
    from envstack.cli.output import Output
    from envstack.cli.place import Target
    from envstack.client import Client


def require_root() -> None:
    """Raise Unsupported unless this process may mount."""
    if os.geteuid() != 0:
        raise Unsupported(
            "only root can do that: use without root is not in this version", "sudo envstack …"
        )


def own_places() -> Places:
    """Return where the daemon of this user is to be found; raises Unsupported, UsageError."""
    require_root()
    return places(os.environ, os.geteuid())


def running() -> Client:
    """Return a client of the daemon that runs; raises NotUp where none does, and starts none."""
    try:
        return connect(own_places())
    except NotRunning:
        raise NotUp(
            "no daemon runs: what was up is not looked after", "envstack up brings it back"
        ) from None


def started() -> Client:
    """Return a client of the daemon, which is started if none runs."""
    return connect_or_start(own_places())


def stack_of(out: Output, client: Client, target: Target) -> str:
    """Return the stack file below a merged tree, which covers or copies it; or the one named."""
    if "stack" in target:
        return target["stack"]
    stack: str = call(out, client, "env.status", **target)["stack"]
    return stack


def call(out: Output, client: Client, method: str, **params: Any) -> Any:
    """Return the answer to one request, and show its progress meanwhile."""
    return client.call(method, params, out.notice)


def ask(out: Output, target: Target, method: str, **params: Any) -> Any:
    """Return what the daemon that runs answers about an environment; starts none."""
    require_root()
    with running() as client:
        return call(out, client, method, **target, **params)
