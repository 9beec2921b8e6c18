"""What differs between two points of history, or between one and the merged tree."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.environment.context import require_mount
from envstack.environment.history import head_chain, resolve, trees_of
from envstack.environment.unsealed import unsealed
from envstack.errors import NotFound, UsageError
from envstack.overlay.diff import differences
from envstack.overlay.sameness import go_on
from envstack.overlay.wanted import absent

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from envstack.environment.context import Context
    from envstack.model import Environment
    from envstack.overlay.diff import Difference


@dataclass(frozen=True, slots=True)
class Request:
    """Which two revisions to compare, `b` None for the merged tree, and at which paths.

    A path is absolute, or relative to the root of the merged tree.
    """

    a: str = "@"
    b: str | None = None
    paths: tuple[bytes, ...] = ()


def compare(
    ctx: Context, env: Environment, request: Request, tick: Callable[[], None] = go_on
) -> Generator[Difference, None, None]:
    """Yield what differs, sorted by path; `tick` is called all the time and may raise.

    Raises NotUp, UsageError for a path outside the merged tree, and NotFound for one that is on
    neither side.
    """
    require_mount(env)
    if not request.paths and request.b is None and _is_head(ctx, env, request.a):
        yield from unsealed(ctx, env, tick)
        return
    a, b = trees_of(ctx, env, request.a), trees_of(ctx, env, request.b)
    paths = [inside(env, path) for path in request.paths]
    if missing := absent((a, b), paths):
        raise NotFound(
            f"there is no {os.fsdecode(missing[0])} on either side",
            "a path is relative to the current directory inside the merged tree, else to its root",
        )
    yield from differences(a, b, paths, tick)


def _is_head(ctx: Context, env: Environment, rev: str) -> bool:
    return resolve(ctx, env, rev).chain == head_chain(ctx, env)


def inside(env: Environment, path: bytes) -> bytes:
    """Return a path relative to the merged tree. Raises UsageError where it leads out of it."""
    relative = os.path.relpath(os.path.join(env.mount, path), env.mount)
    if relative == b".." or relative.startswith(b"../"):
        raise UsageError(
            f"{os.fsdecode(path)} is outside the merged tree",
            f"name what lies below {os.fsdecode(env.mount)}",
        )
    return relative
