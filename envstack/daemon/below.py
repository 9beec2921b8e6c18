"""What the answers tell of the directories below a mount: looked for, known, laid anew."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from envstack.daemon.asking import askers, audience
from envstack.environment import drift, relay, status
from envstack.rpc import shapes

if TYPE_CHECKING:
    from envstack.daemon.calls import Call
    from envstack.environment.context import Context
    from envstack.model import Brought, Environment


def look(ctx: Context, call: Call, env: Environment) -> None:
    """Look now, and tell how far it is. Raises Cancelled."""
    tell = audience(call).tell
    drift.look(ctx, env, lambda count: tell(_looked_at(count)))


def known(ctx: Context, env: Environment) -> dict[str, Any]:
    """Return what an answer that must be quick tells of drift, and have it looked for."""
    found = drift.known(ctx, env)
    drift.look_soon(ctx, env)
    return {"drift": shapes.drift(found)}


def lay_anew(ctx: Context, call: Call, brought: Brought, *, force: bool) -> dict[str, Any]:
    """Return the answer to `up --relay` of an environment that is up."""
    env = brought.env
    request = relay.Request(force=force, ignore=askers(call))
    done = relay.relay(ctx, env, request, lambda count: call.report(_looked_at(count)))
    after = status.status_with_holders(ctx, env.id, askers(call))
    told = replace(brought, saved=done.saved or brought.saved)
    return {**shapes.brought(told, after), "relaid": shapes.relaid(done)}


def _looked_at(count: int) -> str:
    return f"looking at the directories below, {count:,} entries"
