"""Rotation and swap as the daemon does them, and the same exchange by bare system calls."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, NoReturn

from envstack import stackfile
from envstack.environment import checkpoint, down, exchange, rollback, up
from envstack.environment.base import Request
from envstack.environment.context import Audience, Context, Job
from envstack.environment.groups import Groups
from envstack.environment.steps import Step
from envstack.linux.launcher import Launcher
from envstack.overlay import mount as overlay
from envstack.store.store import Store
from tests.bench.figure import Figure, Medians
from tests.bench.material import fill

if TYPE_CHECKING:
    from pathlib import Path

    from envstack.model import EnvId, Environment


def measure(directory: Path, files: int, rounds: int) -> Medians:
    """Time an exchange, each with `files` files in the upper."""
    bare = _bare(directory / "bare", files, rounds)
    rotation, whole = _environment(directory / "rotation", files, rounds, _rotate)
    swap, _ = _environment(directory / "swap", files, rounds, _roll_back)
    return {
        "bare system calls": bare,
        "rotation": rotation,
        "swap": swap,
        "rotation, looking for holders": whole,
    }


def _bare(directory: Path, files: int, rounds: int) -> float:
    """Time what a rotation cannot do without: two directories, an overlay, the exchange."""
    merged, lower = directory / "merged", directory / "lower"
    merged.mkdir(parents=True)
    lower.mkdir()
    chain: list[bytes] = [os.fsencode(lower)]
    times = []
    with ExitStack() as stack:
        upper = _mount_by_hand(directory, merged, chain, 0)
        for number in range(1, rounds + 1):
            fill(merged, files)
            chain = [upper, *chain]
            began = time.perf_counter()
            upper, old = _exchange_by_hand(directory, merged, chain, number)
            times.append(time.perf_counter() - began)
            stack.callback(os.close, old)
        overlay.unmount(os.fsencode(merged))
    return median(times) * 1000


def _spec(directory: Path, chain: list[bytes], number: int) -> overlay.Overlay:
    upper, work = directory / f"upper-{number}", directory / f"work-{number}"
    upper.mkdir()
    work.mkdir()
    return overlay.Overlay(b"bare", tuple(chain), os.fsencode(upper), os.fsencode(work))


def _mount_by_hand(directory: Path, merged: Path, chain: list[bytes], number: int) -> bytes:
    spec = _spec(directory, chain, number)
    mount = overlay.build(spec, like=os.fsencode(directory))
    overlay.attach(mount, os.fsencode(merged))
    os.close(mount)
    return spec.upper


def _exchange_by_hand(
    directory: Path, merged: Path, chain: list[bytes], number: int
) -> tuple[bytes, int]:
    spec = _spec(directory, chain, number)
    new = overlay.build(spec, like=os.fsencode(directory))
    old = overlay.open_mount(os.fsencode(merged))
    overlay.lock_mount(old)
    overlay.attach_beneath(new, old)
    overlay.detach(old)
    os.close(new)
    return spec.upper, old


@dataclass
class _Clock:
    """Notes when each step was announced."""

    steps: dict[Step, float] = field(default_factory=dict)

    def __call__(self, step: Step) -> None:
        self.steps[step] = time.perf_counter()


Operation = Callable[[Context, "Environment"], object]


def _nobody(env: EnvId) -> NoReturn:
    raise AssertionError(f"nobody follows {env} here")


def _environment(
    directory: Path, files: int, rounds: int, operation: Operation
) -> tuple[float, float]:
    """Return the medians from the first step to the answer, and from the request to the answer."""
    project = directory / "project"
    project.mkdir(parents=True)
    (project / "envstack.yaml").write_text("version: 1\nlayers: [{name: project, dir: .}]\n")
    clock = _Clock()
    jobs: deque[Job] = deque()
    from_step, whole = [], []
    with Launcher() as launcher, Store(os.fsencode(directory / "store")) as store:
        groups = Groups(store.home, launcher)
        ctx = Context(
            *(store, clock, jobs.append, launcher, exchange.choose(store)), *(_nobody, groups)
        )
        stack = stackfile.load(os.fsencode(project / "envstack.yaml"))
        request = Request(Audience(_unheard, _unheard), {})
        env = up.up(ctx, None, stack, request).env
        for _ in range(rounds):
            _finish(jobs)
            fill(project / ".envstack" / "merged", files)
            began = time.perf_counter()
            operation(ctx, env)
            ended = time.perf_counter()
            from_step.append(ended - clock.steps[Step.REGISTER])
            whole.append(ended - began)
            env = store.db.environment(env.id)
        _finish(jobs)
        down.purge(ctx, down.down(ctx, env, frozenset({os.getpid()})))
    return median(from_step) * 1000, median(whole) * 1000


def _unheard(_said: object) -> None:
    """Take no notice."""


def _finish(jobs: deque[Job]) -> None:
    while jobs:
        job = jobs.popleft()
        if not job():
            jobs.append(job)


def _rotate(ctx: Context, env: Environment) -> object:
    return checkpoint.checkpoint(ctx, env, checkpoint.Request(ignore=frozenset({os.getpid()})))


def _roll_back(ctx: Context, env: Environment) -> object:
    return rollback.rollback(
        ctx, env, rollback.Request(rev="base", ignore=frozenset({os.getpid()}))
    )


FIGURE = Figure(
    title="An exchange of overlays in the daemon",
    measure=measure,
    counted="files",
    sizes={100: 40, 10_000: 12, 100_000: 4},
    quick={100: 3},
)
