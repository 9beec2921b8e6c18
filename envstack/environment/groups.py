"""The processes that were started in an environment by `run` and `shell`, and their standing still.

Owns the groups of each environment while the daemon runs: made when somebody enters, found again by
a daemon that starts, removed when they are empty. How a group is frozen is the business of `linux`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from envstack.linux import cgroup, stopping
from envstack.linux.freezer import frozen
from envstack.linux.guard import thaw
from envstack.linux.stopping import Marked
from envstack.model import EnvId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.linux.cgroup import Cgroup
    from envstack.linux.freezer import Group, Guards

_log = logging.getLogger(__name__)

_RECORD = b"stopped-"
"""How the names of files in the store begin that say who was stopped, where there is no cgroup."""


def family_of(home: bytes) -> bytes:
    """Return the family of the groups of the store at `home`."""
    return hashlib.sha256(os.path.realpath(home)).hexdigest()[:16].encode()


class Groups:
    """The groups of the environments whose store is at `home`; `guards` thaw when we cannot."""

    def __init__(self, home: bytes, guards: Guards) -> None:
        self._home = home
        self._guards = guards
        self._family = family_of(home)
        self._cgroups: dict[EnvId, set[Cgroup]] = defaultdict(set)
        self._marked: set[EnvId] = set()
        self._frozen: dict[EnvId, bool] = {}

    def recover(self) -> None:
        """Let everybody go on who was left frozen, find who is inside, remove what is empty."""
        for name in os.listdir(self._home):
            if name.startswith(_RECORD) and not name.endswith(b".new"):
                _thaw(self._group_marked(EnvId(name.removeprefix(_RECORD).decode())))
        for name, group in cgroup.find(self._family):
            _thaw(group)
            self._cgroups[EnvId(name.decode())].add(group)
        for env in list(self._cgroups):
            self.clear(env)

    def enter(self, env: EnvId) -> Cgroup | None:
        """Return the group that what is started in `env` has to join.

        None where there can be none: then it has to carry the mark of `mark`.
        """
        group = cgroup.make(self._family, env.encode())
        if group is None:
            self._marked.add(env)
        else:
            self._cgroups[env].add(group)
        return group

    def mark(self, env: EnvId) -> dict[str, str]:
        """Return the variable by which what is started in `env` is known without a group."""
        return {stopping.VARIABLE.decode(): env}

    @contextmanager
    def freeze(self, env: EnvId) -> Iterator[bool]:
        """Let nobody go on who was started in `env`, while the outermost such context lasts.

        Yields whether there was somebody, and all of them stand still. Who works on an environment
        does so alone.
        """
        if env in self._frozen:
            yield self._frozen[env]
            return
        groups: list[Group] = [group for group in self._cgroups[env] if not group.is_empty()]
        marked = self._group_marked(env)
        if env in self._marked and not marked.is_empty():
            groups.append(marked)
        with frozen(groups, self._guards) as held:
            self._frozen[env] = held.is_whole()
            try:
                yield self._frozen[env]
            finally:
                del self._frozen[env]

    def clear(self, env: EnvId) -> None:
        """Remove the groups of an environment that nobody is in."""
        for group in list(self._cgroups[env]):
            group.remove()
            if not os.path.exists(group.path):
                self._cgroups[env].discard(group)
        if not self._cgroups[env]:
            del self._cgroups[env]
        cgroup.forget(self._family)

    def _group_marked(self, env: EnvId) -> Marked:
        return Marked(env.encode(), os.path.join(self._home, _RECORD + env.encode()))


def _thaw(group: Group) -> None:
    """Let everybody in a group go on, if that can be: a start must not fail for it."""
    try:
        thaw(group.order)
    except OSError as error:
        _log.warning("%s cannot be thawed: %s", os.fsdecode(group.order), error)
