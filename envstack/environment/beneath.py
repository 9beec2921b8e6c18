"""What lies beneath an environment that is mounted over its own project.

By path everything in the project is the merged tree there; the layers and the stack file are below.
They are reached through one descriptor of the project's directory: opened before the mount is
attached, or found again under the mount after a restart. Nothing is written through it.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envstack.linux.covered import open_covered
from envstack.linux.mountinfo import read_mounts, stack_at

if TYPE_CHECKING:
    from envstack.model import EnvId, Environment

SOURCE = b"envstack:"
"""How the `source` of every mount of ours begins."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A directory that is held open. Numbers of descriptors come again, these values do not."""

    descriptor: int

    @property
    def path(self) -> bytes:
        """By this name it is reached in this process, whatever is mounted over it."""
        return b"/proc/self/fd/%d" % self.descriptor


class Beneath:
    """The project directories that are held, one for each environment mounted over its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[EnvId, Held] = {}

    def hold(self, env: Environment) -> None:
        """Take hold of the project, which nothing covers as yet, before it is mounted over."""
        if env.over_project:
            opened = os.open(env.project, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            with self._lock:
                self._release(env.id)
                self._held[env.id] = Held(opened)

    def release(self, env: EnvId) -> None:
        """Let go of the project: no mount covers it any more."""
        with self._lock:
            self._release(env)

    def _release(self, env: EnvId) -> None:
        held = self._held.pop(env, None)
        if held is not None:
            os.close(held.descriptor)

    def held(self, env: EnvId) -> Held | None:
        """Return what is held now: another value, or none, means that paths lead elsewhere now."""
        with self._lock:
            return self._held.get(env)

    def reach(self, env: Environment, path: bytes) -> bytes:
        """Return `path`, canonical, as it leads below the mount of `env`.

        Raises what `open_covered` raises, after a restart alone.
        """
        if not env.over_project or not (path + b"/").startswith(env.project + b"/"):
            return path
        with self._lock:
            held = self._held.get(env.id) or self._find(env)
        return (held.path if held else env.project) + path[len(env.project) :]

    def _find(self, env: Environment) -> Held | None:
        """Take hold of the project below a mount that outlived its daemon; None if there is none.

        Between two steps the mount may be of an upper that `env` does not name.
        """
        mounts = stack_at(read_mounts(), env.mount)
        if not mounts or not mounts[0].source.startswith(SOURCE):
            return None
        self._held[env.id] = Held(open_covered(mounts[0]))
        return self._held[env.id]
