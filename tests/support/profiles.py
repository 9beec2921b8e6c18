"""How long the state machines run. `ENVSTACK_MODEL=long` runs each for about half an hour."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

IS_LONG = os.environ.get("ENVSTACK_MODEL") == "long"

COMMON = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
)
QUICK = settings(COMMON, max_examples=15, stateful_step_count=40)
LONG = settings(COMMON, max_examples=300, stateful_step_count=80)
CHOSEN = LONG if IS_LONG else QUICK
FEW = LONG if IS_LONG else settings(COMMON, max_examples=4, stateful_step_count=40)
"""For what is run in several places."""

HUNT = settings(COMMON, max_examples=200, phases=[Phase.generate], database=None)
"""For what must be found to be wrong: no shrinking, and it ends with the first find."""
