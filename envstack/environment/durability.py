"""Make what was sealed outlive a power cut, and judge what one may have harmed.

    sum     what each layer that is at risk holds is measured and written down, durably
    sync    the store's file system is flushed; what was at risk before that is durable then

So a cut leaves a layer that is durable, one that can be compared with what it held, or, in the
moment between its commit and its sum, one of which nobody can say whether it is whole: that counts
as damaged. One flush serves all that was sealed before it began, in every environment.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from envstack.environment.context import since
from envstack.environment.steps import Step
from envstack.errors import Damaged, EnvstackError
from envstack.overlay.root import is_dressed
from envstack.store.extent import measure

if TYPE_CHECKING:
    from envstack.environment.context import Context
    from envstack.model import AtRisk, Checkpoint, Extent, Sealed

_log = logging.getLogger(__name__)


def make_durable(ctx: Context) -> bool:
    """Make durable what was sealed by now, as a job: False while somebody else is at it.

    It does not wait for its turn, because a flush may take long, and jobs share few threads.
    """
    if not ctx.store.disk.lock.acquire(blocking=False):
        return False
    try:
        _make_durable(ctx)
    finally:
        ctx.store.disk.lock.release()
    return True


def confirm(ctx: Context, made: Sealed) -> Sealed:
    """Return the answer to a checkpoint when that is durable. Raises Damaged if it cannot be."""
    began = time.perf_counter()
    with ctx.store.disk.lock:
        _make_durable(ctx)
    row = ctx.store.db.checkpoint(made.checkpoint.id)
    require_whole(row)
    return replace(made, checkpoint=row, duration_ms=round(made.duration_ms + since(began), 3))


def _make_durable(ctx: Context) -> None:
    risky = [row for row in ctx.store.risks.all() if row.boot == ctx.boot]
    if not risky:
        return
    ctx.announce(Step.SUM)
    for row in risky:
        if row.extent is None:
            _measure(ctx, row)
    ctx.announce(Step.SYNC)
    try:
        ctx.store.disk.flush()
    except OSError as error:
        damage = f"the disk failed to write it: {os.strerror(error.errno or 0)}"
        for row in risky:
            _condemn(ctx, row, damage)
        ctx.store.disk.forget()
    else:
        ctx.store.risks.over(row.layer for row in risky)


def _measure(ctx: Context, row: AtRisk) -> None:
    """Write down what a layer holds; the flush does not wait for one that cannot be read."""
    try:
        extent = measure(ctx.store.layers.fs(row.layer))
    except OSError as error:
        _log.warning("layer %s cannot be measured: %s", row.layer, error)
    else:
        ctx.store.risks.measured(row.layer, extent)


def take_up(ctx: Context) -> None:
    """Judge what was sealed before the machine went down, and go on with what was sealed since."""
    risky = ctx.store.risks.all()
    for row in risky:
        if row.boot != ctx.boot:
            _judge_or_put_off(ctx, row)
    if risky:
        ctx.defer(lambda: make_durable(ctx))


def _judge_or_put_off(ctx: Context, row: AtRisk) -> None:
    """Judge a layer; on a full disk that cannot be written down, and must not keep it from use."""
    try:
        _judge(ctx, row)
    except EnvstackError as error:
        _log.warning("layer %s is not judged yet: %s", row.layer, error)
        ctx.defer(lambda: _judge(ctx, row))


def _judge(ctx: Context, row: AtRisk) -> bool:
    damage = _damage(ctx, row)
    if damage is None:
        ctx.store.risks.found_whole(row.layer, ctx.boot)
    else:
        _condemn(ctx, row, damage)
    return True


def _damage(ctx: Context, row: AtRisk) -> str | None:
    """Return what a power cut did to a layer, None if it holds what it held."""
    if row.extent is None:
        return "the machine went down before anybody knew that it is whole"
    try:
        found = measure(ctx.store.layers.fs(row.layer))
    except OSError as error:
        return f"the machine went down, and layer {row.layer} cannot be read: {error.strerror}"
    if not is_dressed(ctx.store.layers.fs(row.layer)):
        return f"the machine went down, and the root of layer {row.layer} lost its mode and owner"
    if found == row.extent:
        return None
    return (
        f"the machine went down, and of {_words(row.extent)} in layer {row.layer}"
        f" {_words(found)} are there"
    )


def _words(extent: Extent) -> str:
    return f"{extent.files:,} entries with {extent.bytes:,} bytes"


def _condemn(ctx: Context, row: AtRisk, damage: str) -> None:
    _log.error("damage: layer %s: %s", row.layer, damage)
    ctx.store.risks.condemn(row.layer, damage)


def require_whole(checkpoint: Checkpoint) -> None:
    """Raise Damaged, with what is wrong, for a checkpoint that is damaged."""
    if checkpoint.damage is not None:
        raise Damaged(
            f"checkpoint {checkpoint.id} is damaged: {checkpoint.damage}",
            f"envstack rollback --force {checkpoint.id} goes on with what is there",
        )
