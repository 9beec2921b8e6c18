"""All checks, in the order in which they are shown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from envstack.doctor import freezing, home, kernel, limits, peers
from envstack.doctor.check import State
from envstack.doctor.child import outcomes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from envstack.doctor.check import Check
    from envstack.rpc.places import Places


def examine(places: Places) -> Iterator[Check]:
    """Yield what this machine can do for envstack with its store and its daemon at `places`.

    Raises OSError where this process may have no child.
    """
    yield from kernel.checks(outcomes(kernel.trials()))
    yield from home.checks(os.path.realpath(places.home))
    yield from limits.checks(places.home)
    yield from kernel.user_checks(outcomes(kernel.user_trials()))
    yield freezing.check()
    yield from peers.checks(places)


def can_work(checks: Iterable[Check]) -> bool:
    """Tell whether envstack can work where these are the checks."""
    return all(check.state is not State.MISSING for check in checks)
