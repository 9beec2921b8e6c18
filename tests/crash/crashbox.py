"""A sandbox whose daemon is killed at will."""

from __future__ import annotations

import os
import select
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envstack.client import NotRunning, RemoteError, connect
from envstack.errors import NoDaemon
from envstack.linux import syscalls
from envstack.rpc.places import places
from tests.crash.books import Books
from tests.crash.daemon import KILL, RECORD, Order, Orders
from tests.support import trees, waiting
from tests.support.edits import apply, chmod, mkdir, remove, rename, write
from tests.support.judge import Judge
from tests.support.sandbox import Sandbox
from tests.support.ways import NEWER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envstack.client import Client
    from envstack.rpc.places import Places
    from tests.crash.nursery import Nursery
    from tests.support.edits import Edit
    from tests.support.trees import Tree

UP, DOWN, ABSENT = "up", "down", "absent"

LAYERS: dict[str, list[Edit]] = {
    "bottom": [
        write("covered", "never seen\n"),
        write("kept", "from the bottom\n"),
        mkdir("lib"),
        write("lib/one", "one\n"),
        write("lib/two", "two\n"),
    ],
    "top": [
        write("covered", "covers\n", 0o755),
        mkdir("more", 0o700),
        write("more/file", "on top\n"),
        lambda root: os.symlink("../covered", root / "more" / "symlink"),
        lambda root: os.setxattr(root / "covered", "user.a", b"top"),
    ],
}

FIRST = (write("first", "1\n"), remove("more/file"), chmod("covered", 0o700))
SECOND = (remove("lib"), mkdir("lib"), write("lib/three", "3\n"), remove("first"))
THIRD = (write("kept", "third\n"), remove("lib/three"), rename("covered", "found"))
"""Edits before the first, the second and the next checkpoint: whiteouts, copy-ups, an opaque
directory."""

BELOW = write("below", "new\n")
"""An edit of the lowest layer."""

AFTER_CRASH = (write("while nobody watched", "mine\n"), write("kept", "mine too\n"))
"""What the user does while no daemon runs."""
WRITTEN_AFTER_CRASH = (b"while nobody watched", b"kept")


class Crashbox(Sandbox):
    """`known` holds the trees of the checkpoints that were made, and the base's, in order."""

    def __init__(
        self,
        place: Path,
        nursery: Nursery,
        home: Path | None = None,
        mount: str = ".envstack/merged",
        way: str = NEWER,
    ) -> None:
        """Make `place`, for the project, the copies of its trees, and `home` if none is given."""
        place.mkdir()
        home = home or place / "home"
        project = place / "project"
        project.mkdir(mode=0o755)
        super().__init__(home, project, LAYERS, mount)
        self.place = place
        self.way = way
        self.judge = Judge(place / "judge", *LAYERS.values())
        self.known: dict[str, Tree] = {"base": self.judge.now()}
        self.orders = Orders(place / "orders")
        self.books = Books(home)
        self._nursery = nursery
        self._environ = {"ENVSTACK_HOME": str(home), "ENVSTACK_LOG": "debug"}

    def declare(self, stack: dict[str, Any]) -> None:
        super().declare(stack)
        self._below = trees.snapshot(self.project)

    def check_unmounted(self) -> None:
        """Fail unless the mount point is as it was before: empty, or the project."""
        if self.merged == self.project:
            assert not trees.differences(self.shown(), self._below)
        else:
            assert not self.merged.exists() or not os.listdir(self.merged)

    def start(self) -> dict[str, Any] | None:
        """Start a daemon; return what it said, None if it died in its start."""
        return self._nursery.start(self._environ, self.orders.path, self.way)

    def ask(self, method: str, **params: object) -> Any:
        """Call `env.method` over a connection of its own: any thread may."""
        with connect(self.places()) as client:
            return client.call(f"env.{method}", {"stack": str(self.stack), **params})

    def edit(self, *edits: Edit) -> None:
        """Change the merged tree, and the judge's alike."""
        apply(self.merged, *edits)
        apply(self.judge.plain, *edits)

    def remember(self, checkpoint: str) -> Tree:
        """Keep what the judge's tree is now as that of `checkpoint`, and return it."""
        self.known[checkpoint] = self.judge.now()
        return self.known[checkpoint]

    def shown(self) -> Tree:
        """Return the merged tree."""
        return trees.snapshot(self.merged)

    @contextmanager
    def death(self) -> Iterator[Callable[[], bool]]:
        """Yield a question: has the daemon that runs now died?"""
        pidfd = os.pidfd_open(self.client.daemon_pid)
        try:
            yield lambda: _is_dead(pidfd)
        finally:
            os.close(pidfd)

    def kill_at(self, order: Order, act: Callable[[], object]) -> bool:
        """Act while the daemon is to kill itself, wait for its death; tell whether it answered."""
        with self.death() as is_dead:
            self.orders.give(order)
            answered = self.attempt(act)
            waiting.until(is_dead, f"the daemon's death at {order}")
        self.disconnect()
        self.orders.withdraw()
        return answered

    def attempt(self, act: Callable[[], object]) -> bool:
        """Act; tell whether an answer came before the daemon's death."""
        try:
            act()
        except RemoteError:
            raise
        except NoDaemon:
            return False
        return True

    def record(self, act: Callable[[], object], count: int) -> list[str]:
        """Act and return the steps announced, once there are `count` and no work is left."""
        self.orders.give(Order(RECORD))
        act()
        self.books.wait_until_in_order()
        with suppress(TimeoutError):
            waiting.until(lambda: len(self.orders.seen()) >= count, "the steps", within=2.0)
        self.orders.withdraw()
        return self.orders.seen()

    def recover_under_fire(self) -> int:
        """Start daemons, each killed one announcement later, until one lives; return how many died.

        The last one has done its work in the background when this returns.
        """
        for nth in range(1, 100):
            self.orders.give(Order(KILL, nth=nth))
            if self.start() is not None and self._comes_to_rest():
                self.orders.withdraw()
                return nth - 1
            self.disconnect()
        raise AssertionError("no daemon ever lived")

    def _comes_to_rest(self) -> bool:
        try:
            self._client = connect(self.places())  # none is started where this one is dead
            with self.death() as is_dead:
                self.rest(is_dead)
                return not is_dead()
        except NoDaemon:
            return False

    def rest(self, is_dead: Callable[[], bool]) -> None:
        """Wait until the daemon has nothing left to do, or is dead."""
        try:
            waiting.until(lambda: is_dead() or not self.books.faults(), "rest or death", within=5.0)
        except TimeoutError as error:
            raise AssertionError("no rest:\n" + "\n".join(self.books.faults())) from error

    def work_on(self) -> Tree | None:
        """Write as the user does who has noticed nothing; return the tree, None if he could not."""
        if not self.mounts():
            return None
        try:
            apply(self.merged, *AFTER_CRASH)
        except OSError:
            return None
        return self.shown()

    def power_off(self) -> None:
        """Take away what does not outlive the machine: the daemon and its mounts."""
        for point in self.mounts():
            syscalls.umount(os.fsencode(point), syscalls.MNT_DETACH)
        assert not self.mounts()

    def mounts(self) -> list[str]:
        """Return where environments are mounted in this place, once a mount."""
        table = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split(" ")[4] for line in table if " - overlay envstack:" in line]
        return [point for point in points if Path(point).is_relative_to(self.place)]

    def state(self) -> str:
        """Return `up`, `down`, `degraded` or `absent`."""
        rows = [row["state"] for row in self.environments() if row["stack"] == str(self.stack)]
        return str(rows[0]) if rows else ABSENT

    def end(self) -> None:
        """Kill the daemon, if one runs, and take away its mounts."""
        self.orders.withdraw()
        self.disconnect()
        with suppress(NoDaemon), connect(self.places()) as client:
            waiting.kill(client.daemon_pid, signal.SIGKILL, "the daemon")
        self.power_off()

    def close(self) -> None:
        """Take away all that is there, whatever the test left."""
        self.end()
        trees.remove(self.home)
        trees.remove(self.place)

    def places(self) -> Places:
        return places(self._environ, os.getuid())

    @property
    def client(self) -> Client:
        if self._client is None:
            try:
                self._client = connect(self.places())
            except NotRunning:
                verdict = self.start()
                assert verdict == {"ready": True}, f"the daemon did not start: {verdict}"
                self._client = connect(self.places())
        return self._client


def _is_dead(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])
