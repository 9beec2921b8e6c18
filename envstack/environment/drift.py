"""Drift: directories by reference that are not what they were when they were mounted.

What was mounted is known by its fingerprint, taken in the background. A look at all of a directory
takes 4 us an entry, so no answer waits for one that did not ask for it: an answer tells what the
last look found, and sees to it that there is another one soon. Looking changes nothing but what is
known, and what is known is lost with the daemon: its successor looks anew.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from envstack.environment.steps import Step
from envstack.errors import Unsupported
from envstack.model import Drift, DriftReason, Fingerprint, LayerKind
from envstack.sources import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envstack.environment.context import Context
    from envstack.model import Environment, Layer, LayerId

_FRESH = 5.0
"""Seconds after a look in which no other one is begun unasked."""

_REST = 20
"""Times as long as it took, likewise: what nobody asked for has a twentieth of a processor."""

_AT_ONCE = 10_000
"""Entries: so many are looked at while an answer waits, in a twentieth of a second."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of an environment that is mounted since `since_ns`, on directories `roots`.

    `rows` is what a look found `against` fingerprints, and None before the first. Unasked, another
    one is begun from when time.monotonic says `due`: never, while one is under way.
    """

    since_ns: int
    roots: dict[LayerId, str]
    due: float = math.inf
    rows: tuple[Drift, ...] | None = None
    against: dict[LayerId, Fingerprint] = field(default_factory=dict)


def forget(ctx: Context, env: Environment) -> None:
    """Forget what was mounted: it is about to be mounted as it is now."""
    ctx.store.fingerprints.forget(env.lowers)


def watch(ctx: Context, env: Environment) -> None:
    """Look after an environment from now on, at once in the background: it was just mounted."""
    _begin(ctx, env, time.time_ns())
    ctx.defer(partial(look, ctx, env, _tell_nobody))


def remounted(ctx: Context, env: Environment) -> None:
    """Begin anew in the background: another overlay was put in the place of the mounted one."""
    forget(ctx, env)
    watch(ctx, env)


def _tell_nobody(_count: int) -> None:
    """Take no notice of how far a look in the background has come."""


def known(ctx: Context, env: Environment) -> tuple[Drift, ...] | None:
    """Return what the last look found; None where nobody has looked at what is mounted now."""
    found = ctx.looks.get(env.id)
    if found is None or found.against != ctx.store.fingerprints.of(env.lowers):
        return None
    return found.rows


def look(ctx: Context, env: Environment, tick: Callable[[int], None]) -> bool:
    """Compare what is there with what was mounted, and take the fingerprints that are missing.

    A job that is done at once. An environment that is not mounted, or not any more when the look
    comes to its end, is left alone. `tick` is as in `sources.fingerprint.look`.
    """
    _look(ctx, env, ctx.store.fingerprints.of(env.lowers), tick)
    return True


def look_soon(ctx: Context, env: Environment) -> None:
    """Look in the background, unless that is being done or was done just now."""
    last = ctx.looks.get(env.id)
    if last is not None and time.monotonic() >= last.due:
        ctx.looks[env.id] = replace(last, due=math.inf)
        ctx.defer(partial(look, ctx, env, _tell_nobody))


def look_now_or_soon(ctx: Context, env: Environment) -> None:
    """Look at once where that is quick, else in the background."""
    mounted = ctx.store.fingerprints.of(env.lowers).values()
    if mounted and sum(directory.entries for directory in mounted) <= _AT_ONCE:
        look(ctx, env, _tell_nobody)
    else:
        look_soon(ctx, env)


def begin_anew(ctx: Context, env: Environment, since_ns: int, tick: Callable[[int], None]) -> None:
    """Take every fingerprint anew: since `since_ns` what is there is what is mounted."""
    _begin(ctx, env, since_ns)
    _look(ctx, env, {}, tick)


def is_replaced(ctx: Context, env: Environment) -> bool:
    """Tell whether a layer's directory is another one than that which was mounted."""
    last = ctx.looks.get(env.id)
    mounted = dict(last.roots) if last else {}
    for layer, seen in ctx.store.fingerprints.of(env.lowers).items():
        mounted[layer] = seen.root
    return any(mounted.get(layer, root) != root for layer, root in _roots(ctx, env).items())


def _begin(ctx: Context, env: Environment, since_ns: int) -> None:
    ctx.looks[env.id] = Look(since_ns, _roots(ctx, env))


def _roots(ctx: Context, env: Environment) -> dict[LayerId, str]:
    """Return which directories the layers are now; what cannot be read is left out."""
    found = {}
    for layer, path in _directories(ctx, env):
        with suppress(OSError):
            found[layer.id] = fingerprint.identity(os.stat(path))
    return found


def _look(
    ctx: Context,
    env: Environment,
    mounted: dict[LayerId, Fingerprint],
    tick: Callable[[int], None],
) -> None:
    last = ctx.looks.get(env.id)
    if last is None or not ctx.store.db.knows(env.id):
        return
    began = time.monotonic()
    fresh: dict[LayerId, Fingerprint] = {}
    rows: list[Drift] = []
    for layer, path in _directories(ctx, env):
        before = mounted.get(layer.id)
        try:
            seen = fingerprint.look(path, before.taken_ns if before else last.since_ns, tick)
        except OSError:  # its file system may be out of reach: there is nothing to be seen of it
            rows.append(_gone(layer, before))
            continue
        if before is None:
            before = fresh[layer.id] = _first(seen, last, layer.id)
        rows += _compared(layer, before, seen)
    now = ctx.looks.get(env.id)
    if now is None or now.since_ns != last.since_ns:
        return  # what this look was about is not mounted any more
    if fresh:
        ctx.announce(Step.FINGERPRINT)
        ctx.store.fingerprints.put(fresh)
    ended = time.monotonic()
    due = ended + max(_FRESH, _REST * (ended - began))
    ctx.looks[env.id] = replace(now, rows=tuple(rows), against={**mounted, **fresh}, due=due)


def _directories(ctx: Context, env: Environment) -> Iterator[tuple[Layer, bytes]]:
    """Yield the layers by reference, topmost first, and where each is to be read."""
    layers = ctx.store.db.chain(env.lowers)
    try:
        trees = ctx.trees(env, env.lowers)
    except Unsupported:  # nobody can look below this mount until it was down
        return
    for layer, path in zip(layers, trees, strict=True):
        if layer.kind is LayerKind.DIR:
            yield layer, path


def _first(seen: fingerprint.Seen, last: Look, layer: LayerId) -> Fingerprint:
    """Return what to hold later looks against: nothing is like it if it came too late."""
    first = replace(seen.fingerprint, root=last.roots.get(layer, seen.fingerprint.root))
    return replace(first, digest="", taken_ns=last.since_ns) if seen.paths else first


def _compared(layer: Layer, before: Fingerprint, seen: fingerprint.Seen) -> Iterator[Drift]:
    after = seen.fingerprint
    if after.root != before.root:
        reason = DriftReason.REPLACED
    elif after.digest != before.digest:
        reason = DriftReason.CHANGED
    else:
        return
    yield Drift(layer.id, layer.name or "", reason, seen.paths, before.entries, after.entries)


def _gone(layer: Layer, before: Fingerprint | None) -> Drift:
    entries = before.entries if before else 0
    return Drift(layer.id, layer.name or "", DriftReason.GONE, (), entries, 0)
