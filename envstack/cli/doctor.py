"""`doctor`: what this machine can do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.cli import text
from envstack.cli.command import Context, Json, begin
from envstack.errors import EnvstackError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.cli.text import Paint
    from envstack.doctor.check import Check

_MARKS = {"ok": ("✓", "green"), "limited": ("!", "yellow"), "missing": ("✗", "red")}


def doctor(ctx: Context, json: Json = False) -> None:
    """Tell what this machine can do, and what to do where it cannot.

    Tries in a mount namespace of its own what envstack needs of the kernel and of the file system
    of its store; changes nothing. Exit code 5 where envstack cannot work here.

    \b
    Examples:
      envstack doctor
      ENVSTACK_HOME=/mnt/big envstack doctor    # would the store do well there?
    """
    from envstack.doctor.examination import can_work, examine
    from envstack.rpc.places import places

    out = begin(ctx, json)
    try:
        checks = list(examine(places(os.environ, os.geteuid())))
    except OSError as error:
        raise EnvstackError(f"no trial can be made: {error.strerror}") from error
    works = can_work(checks)
    rows = [
        {"name": check.name, "state": check.state, "found": check.found, "hint": check.hint}
        for check in checks
    ]
    out.show({"checks": rows, "ok": works}, _lines(checks, out.paint))
    if not works:
        lacking = [check for check in checks if check.state == "missing"]
        names = ", ".join(check.name for check in lacking)
        raise Unsupported(f"envstack cannot work here: {names}", lacking[0].hint)


def _lines(checks: list[Check], paint: Paint) -> Iterator[str]:
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark, colour = _MARKS[check.state]
        yield f"{paint(colour, mark)} {check.name:{width}}  {text.escaped(check.found)}"
        if check.hint:
            yield f"  {'':{width}}  {paint('cyan', 'hint:')} {text.escaped(check.hint)}"
