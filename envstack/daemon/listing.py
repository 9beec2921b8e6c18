"""All environments as `ls` shows them: each one's status, and what it takes and keeps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from envstack.environment import history
from envstack.rpc import shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from envstack.environment.context import Context
    from envstack.environment.sizes import Sizes
    from envstack.model import Status


def listing(ctx: Context, rows: Sequence[Status], sizes: Sizes) -> list[dict[str, Any]]:
    """Return the rows of `ls`.

    `size` is in bytes, null while it is not known; unless `size_exact`, it is at least so much.
    `stack_exists` is false where the stack file is gone, and `project_exists` where its directory
    is.
    """
    found = sizes.of(row.env.id for row in rows)
    shown = []
    for row in rows:
        size = found[row.env.id]
        shown.append(
            {
                **shapes.status(row),
                "size": size.bytes if size else None,
                "size_exact": size is not None and size.exact,
                "checkpoints": len(history.log(ctx, row.env)),
                "stack_exists": os.path.lexists(row.env.stack_path),
                "project_exists": os.path.isdir(row.env.project),
            }
        )
    return shown
