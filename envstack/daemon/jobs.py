"""Work off the path of an answer: sealing, spare uppers, counting, deleting.

A job is tried again, ever less often, until it says that it is done, also after an error that may
pass (a full disk). One that fails otherwise is logged and given up: the state it left is taken up
again by the next start.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
from anyio import CapacityLimiter, from_thread

from envstack.daemon.threads import run_to_its_end
from envstack.errors import Damaged, EnvstackError, Unsupported

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from envstack.environment.context import Job

_log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 5.0
_THREADS = 2


class Jobs:
    """Runs jobs in threads of their own, in tasks of the group that is handed in.

    Jobs may be deferred from the start; they begin with `open`, once recovery has sorted the store
    and no longer expects to be alone with it.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._threads = CapacityLimiter(_THREADS)
        self._opened = anyio.Event()

    def open(self) -> None:
        """Begin with the jobs that were deferred, and from now on with each at once."""
        self._opened.set()

    def defer(self, job: Job) -> None:
        """Take a job from a worker thread."""
        from_thread.run_sync(self._tasks.start_soon, self._run, job)

    async def _run(self, job: Job) -> None:
        await self._opened.wait()
        pause = _FIRST_PAUSE
        while not await self._attempt(job, pause):
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _attempt(self, job: Job, pause: float) -> bool:
        done = True
        try:
            done = await run_to_its_end(job, self._threads)
        except (EnvstackError, OSError) as error:
            done = isinstance(error, (Damaged, Unsupported))
            if done or pause == _FIRST_PAUSE:
                _log.warning("work in the background is put off: %s", error)
        except Exception:
            _log.exception("work in the background failed")
        return done
