"""The feed of one environment: what the disk and the books tell becomes events in true order.

Owns the order in which things are told. It blocks, and one caller at a time is in it; it neither
watches nor serves anybody. Whatever fails leaves the journal as it was: the next look finds what
this one would have told. What cannot be told in truth begins the journal anew, and every place
before that is out of reach.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.errors import Damaged, EnvstackError, NotFound
from envstack.feed import wish
from envstack.feed.doubt import Doubt, Patrol, Turns
from envstack.feed.look import Found, Ground, Look
from envstack.feed.telling import bodies, body, in_telling_order, sealed
from envstack.model import BASE
from envstack.overlay.diff import diff
from envstack.overlay.shown import await_shown
from envstack.rpc.feed import MountChanged, RollbackBegin, RollbackEnd, Synced
from envstack.store.index import Index
from envstack.store.journal import Batch
from envstack.store.records import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from envstack.feed.wish import Wish
    from envstack.model import Chain, EnvId, Environment, LayerId
    from envstack.overlay.merged import LayerTree
    from envstack.store.journal import Followed, Position
    from envstack.store.operations import Operation, Standing
    from envstack.store.store import Store

_log = logging.getLogger(__name__)

_MANY = 20_000
"""Changes and rows that are held before they are written: a storm must not fill the memory."""
_MOST = 10 * _MANY
"""The same where a part cannot be told by itself: it would be told again if it were the last."""

_UNSHOWN = 60 * 10**9
"""Nanoseconds after which the merged tree surely shows what the upper has."""

_PATROLLED = 1000
"""Files that a patrol compares or asks for a lease at the most."""


@dataclass(frozen=True, slots=True)
class Views:
    """How the layers of an environment can be read now.

    `held` is the same object as long as the paths of `chain` lead where they did. `merged` is a
    path of the merged tree, None while it is not mounted.
    """

    upper: Callable[[LayerId], LayerTree]
    chain: Callable[[Chain], tuple[LayerTree, ...]]
    held: Callable[[], object]
    merged: Callable[[], bytes | None]


_NOT_YET = -1
"""Stands for the last operation told while what is there is not yet all taken for told."""


class _Overtaken(Exception):
    """Something was done to the environment while it was looked at: that is to be told first."""


class Follower:
    """Tells what happens to `env`; `grain` is that of time stamps, as `doubt.grain_of` has it.

    `grown` is called, in any thread, when there is more to read.
    """

    def __init__(
        self, store: Store, env: EnvId, views: Views, grain: int, grown: Callable[[], None]
    ) -> None:
        self._store = store
        self._journal = store.journal
        self._env = env
        self._views = views
        self._doubt = Doubt(grain)
        self._patrol = Patrol(grain)
        self._grown = grown
        self._lock = threading.RLock()
        self._new: list[tuple[bytes, int]] = []
        self._patrolled = b""
        self._turns = Turns()

    def advance(self) -> LayerId:
        """Tell what was done to the environment since; return the upper that is to be watched.

        Raises EnvstackError and OSError where that cannot be told now.
        """
        return self._advanced().upper

    def take(
        self, upper: LayerId, entries: Iterable[bytes], trees: Iterable[bytes]
    ) -> list[tuple[bytes, int]]:
        """Look at some entries of `upper`, and at some with all below; tell what has changed.

        Returns the directories that are new since the last time, whoever found them, each a path
        and an inode number. What is about another upper by now is not looked at.
        """
        with self._lock:
            self._look_live(upper, wish.at(entries, trees))
            return self._taken_new()

    def sweep(self, upper: LayerId) -> list[tuple[bytes, int]]:
        """Look at everything; otherwise like `take`."""
        with self._lock:
            self._look_live(upper, wish.everywhere())
            return self._taken_new()

    def sync(self) -> Position:
        """Look at everything, and return the place of an event with all that was found before it.

        Of an environment that is down, or cannot be mounted, nothing can change.
        """
        with self._lock:
            env = self._advanced()
            if env.wanted:
                self._look_live(env.upper, wish.everywhere())
            self._write(Batch([body(Synced("", 0))]))
            return self._end()

    def reset(self) -> None:
        """Begin anew from what is there, where what became of the tree cannot be told."""
        with self._lock:
            self._begin_anew()

    def recheck(self) -> None:
        """Compare the bytes of the files that may have changed unseen."""
        with self._lock:
            upper = self.advance()
            doubtful = self._index().doubtful()
            if doubtful:
                self._look_live(upper, wish.at(doubtful))

    def patrol(self) -> bool:
        """Look for writes that nothing tells of, in a bounded time; return whether to go on soon.

        So as long as there are doubtful files, or files that nobody has asked for a lease.
        """
        with self._lock:
            upper = self.advance()
            index = self._index()
            doubtful = index.doubtful()
            compared = self._turns.next(doubtful)
            others = index.following(self._patrolled, _PATROLLED - len(compared))
            self._patrolled = others[-1] if others else b""
            asked = (path for path in others if path not in doubtful)
            self._look_live(upper, wish.at([*compared, *asked]), self._patrol)
            self._journal.tidy()
            return bool(others) or bool(index.doubtful())

    def _index(self) -> Index:
        return Index(self._journal, self._followed())

    def _followed(self) -> Followed:
        followed = self._journal.followed(self._env)
        if followed is None:
            raise NotFound(f"nobody follows {self._env}", "envstack ls")
        return followed

    def _advanced(self) -> Environment:
        """Tell what was done since, and return the environment as it is after that."""
        with self._lock:
            while True:
                env = self._store.db.environment(self._env)  # first: no operation is missed then
                followed = self._journal.followed(self._env)
                last = self._store.operations.last(self._env)
                if followed is None or followed.ops == _NOT_YET:
                    self._begin_anew()
                elif followed.ops < last:
                    pending = self._store.operations.after(self._env, followed.ops)
                    for operation in pending[:1]:  # none, if it was purged meanwhile
                        self._tell(followed, operation)
                elif followed.ops == last and _stands_on(followed, env):
                    return env
                else:
                    _log.warning("the feed of %s begins anew: the books are older", self._env)
                    self._begin_anew()

    def _begin_anew(self) -> None:
        """Take what is there for told; interrupted, that is begun again."""
        env = self._store.db.environment(self._env)
        last = self._store.operations.last(self._env)
        self._new.clear()
        self._journal.begin(env.id, env.upper, env.lowers, _NOT_YET)
        if self._store.layers.exists(env.upper):
            ground = self._ground(env.upper, env.lowers)
            self._look(ground, wish.everywhere(), self._doubt, self._write_silently)
        self._write(Batch(ops=last))
        self._grown()

    def _taken_new(self) -> list[tuple[bytes, int]]:
        """Take out and return the new directories, of which the watcher may have heard nothing."""
        new, self._new = self._new, []
        return new

    def _look_live(self, upper: LayerId, wished: Wish, doubt: Doubt | None = None) -> None:
        """Look at an upper that changes meanwhile, as may what is done to the environment."""
        with self._lock:
            while (env := self._advanced()).upper == upper:
                try:
                    ground = self._ground(upper, env.lowers)
                    self._look(ground, wished, doubt or self._doubt, self._write_current)
                except _Overtaken:
                    continue
                return

    def _look(
        self, ground: Ground, wished: Wish, doubt: Doubt, write: Callable[[Found], None]
    ) -> None:
        """Look, and at what is linked to what has changed; write what is found, in pieces."""
        held = self._views.held()

        def put(found: Found) -> None:
            if self._views.held() is not held:
                raise EnvstackError("the environment was mounted or unmounted meanwhile")
            self._await_shown(found)
            write(found)
            self._new.extend(found.directories)

        index = self._index()
        linked: set[int] = set()
        while True:
            look = Look(ground, index, doubt)
            for _ in look.run(wished):
                if len(look.found) >= (_MANY if look.is_whole else _MOST):
                    linked |= look.found.linked
                    put(look.found)
                    look.found = Found()
            linked |= look.found.linked
            put(look.found)
            if wished.whole or not linked:
                return
            wished = wish.at(path for ino in linked for path in index.names_of(ino))
            linked = set()

    def _await_shown(self, found: Found) -> None:
        """Return once a reader of the merged tree sees what was found: it may read it only once."""
        merged = self._views.merged()
        if merged is not None:
            await_shown(merged, found.places(time.time_ns() - _UNSHOWN))

    def _tell(self, followed: Followed, operation: Operation) -> None:
        """Tell one change of state, and all that went before it in the upper that it left."""
        before, after = operation.before, operation.after
        try:
            if operation.op is Op.RELAY or before.upper != followed.upper:
                raise Damaged(f"what {operation.op} did to the tree cannot be told")
            if before.upper != after.upper or operation.op is Op.DOWN:
                ground = self._ground(before.upper, before.lowers)
                self._look(ground, wish.everywhere(), self._doubt, self._write_found)
            batch = Batch(list(self._bodies(operation)), ops=operation.number)
        except (Damaged, FileNotFoundError) as error:
            _log.warning("the feed of %s begins anew: %s", self._env, error)
            self._begin_anew()
            return
        if (before.upper, before.lowers) != (after.upper, after.lowers):
            batch.moved = after.upper, after.lowers
            self._new.clear()
        self._write(batch)

    def _bodies(self, operation: Operation) -> Iterator[str]:
        """Yield what one change of state is in the feed."""
        before, after = operation.before, operation.after
        is_swapped = before.upper != after.upper
        saved = self._store.db.checkpoints_on(before.upper) if is_swapped else []
        match operation.op:
            case Op.CHECKPOINT if after.head is not None:
                yield sealed(self._store.db.checkpoint(after.head))
                if is_swapped:
                    yield _mount("swapped")
            case Op.ROLLBACK:
                yield from map(sealed, saved)
                to = after.head or BASE
                yield body(RollbackBegin("", 0, to))
                if is_swapped:
                    yield _mount("swapped")
                    yield from self._differences(before, after)
                yield body(RollbackEnd("", 0, to))
            case Op.UP | Op.REBUILD:
                yield from map(sealed, saved)
                yield _mount("mounted" if operation.op is Op.UP else "swapped")
                if is_swapped:
                    yield from self._differences(before, after)
            case Op.DOWN:
                yield _mount("unmounted")

    def _differences(self, before: Standing, after: Standing) -> Iterator[str]:
        """Yield what a fresh upper on another chain shows changed."""
        upper = self._views.upper(before.upper)
        old = (upper, *self._views.chain(before.lowers))
        return bodies(in_telling_order(diff(old, self._views.chain(after.lowers))))

    def _ground(self, upper: LayerId, lowers: Chain) -> Ground:
        return Ground(self._views.upper(upper), self._views.chain(lowers))

    def _write_current(self, found: Found) -> None:
        """Write what was found in a live upper, unless something else is to be told before it."""
        if self._store.operations.last(self._env) != self._followed().ops:
            raise _Overtaken
        self._write_found(found)

    def _write_found(self, found: Found) -> None:
        if found:
            self._write(Batch(list(bodies(found.changes)), found.rows))

    def _write_silently(self, found: Found) -> None:
        self._write(Batch([], found.rows))

    def _write(self, batch: Batch) -> None:
        self._journal.write(self._followed(), batch)
        if batch.bodies:
            self._grown()

    def _end(self) -> Position:
        end = self._journal.end(self._env)
        assert end is not None, "it has been written to"
        return end


def _stands_on(followed: Followed, env: Environment) -> bool:
    return (followed.upper, followed.lowers) == (env.upper, env.lowers)


def _mount(state: str) -> str:
    return body(MountChanged("", 0, state))
