"""One project with a stack, a store of its own and the daemon that keeps it, for one test.

It speaks to the daemon as every client does, over the socket, and sees what any user sees.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Self

from envstack.client import connect_or_start
from envstack.linux.syscalls import MNT_DETACH, umount
from envstack.rpc.places import places
from tests.support import waiting
from tests.support.edits import apply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from envstack.client import Client
    from tests.support.edits import Edit

Json = dict[str, Any]

DAEMON = (
    sys.executable,
    "-c",
    "import os, sys; from envstack.daemon.process import main;"
    "sys.exit(main(os.environ, int(sys.argv[2])))",
)
"""The daemon without the command line around it; `--ready-fd N` follows."""


class Sandbox:
    """An environment that is not up yet; leaving the context deletes it and ends its daemon."""

    def __init__(
        self,
        home: Path,
        project: Path,
        layers: Mapping[str, Sequence[Edit]],
        mount: str = ".envstack/merged",
        daemon: Sequence[str] = DAEMON,
    ) -> None:
        """Write one directory a layer, bottom first, and the stack file into `project`."""
        self._daemon = daemon
        self.home = home
        self.project = project
        self.stack = project / "envstack.yaml"
        self.mount = mount
        self.merged = project / mount
        self._client: Client | None = None
        for name, edits in layers.items():
            (project / name).mkdir()
            (project / name).chmod(0o755)
            apply(project / name, *edits)
        self.declare({"layers": [{"name": name, "dir": name} for name in layers]})

    def declare(self, stack: Json) -> None:
        """Write the stack file; JSON is YAML, and quotes what must be quoted."""
        whole = {"version": 1, "name": "sandbox", "mount": self.mount, **stack}
        self.stack.write_text(json.dumps(whole))

    def up(self, **params: object) -> Json:
        """Mount it; its commands may run, and find what this process finds."""
        environ = {"PATH": os.environ["PATH"]}
        return self._env("up", **{"trust": True, "environ": environ, **params})

    def relay(self) -> Json:
        """Lay the layers anew."""
        return self.up(relay=True)

    def directory(self, layer: str) -> Path:
        """Return the directory of a layer."""
        return self.project / layer

    def down(self, *, purge: bool = False) -> Json:
        """Unmount it; with `purge`, delete it and its history."""
        return self._env("down", purge=purge)

    def status(self) -> Json:
        """Return it as `status` shows it."""
        return self._env("status")

    def environments(self) -> list[Json]:
        """Return all environments of the store."""
        rows: list[Json] = self.call("env.list")
        return rows

    def checkpoint(
        self,
        message: str = "",
        *,
        tag: str | None = None,
        mode: str = "auto",
        sync: bool = False,
        force: bool = False,
    ) -> Json:
        """Seal what is there."""
        return self._env("checkpoint", message=message, tag=tag, mode=mode, sync=sync, force=force)

    def rollback(
        self,
        rev: str = "@",
        *,
        mode: str = "auto",
        discard: bool = False,
        force: bool = False,
        dry_run: bool = False,
    ) -> Json:
        """Go back to `rev`."""
        return self._env(
            "rollback", rev=rev, mode=mode, discard=discard, force=force, dry_run=dry_run
        )

    def log(self) -> list[Json]:
        """Return the history, newest first."""
        rows: list[Json] = self.call("env.log", stack=str(self.stack))
        return rows

    def diff(self, a: str | None = None, b: str | None = None) -> list[Json]:
        """Return what changed from `a` (the head) to `b` (the merged tree)."""
        rows: list[Json] = self.call("env.diff", stack=str(self.stack), a=a, b=b)
        return rows

    def call(self, method: str, **params: object) -> Any:
        """Call any method, starting the daemon if none runs. Raises RemoteError as it answers."""
        return self.client.call(method, params)

    @property
    def client(self) -> Client:
        """A connection to the daemon, which is started if none runs."""
        if self._client is None:
            self._client = self.connect()
        return self._client

    def connect(self) -> Client:
        """Return a further connection to the daemon, which is started if none runs."""
        where = f"ENVSTACK_HOME={self.home}"
        environ = {"ENVSTACK_HOME": str(self.home)}
        return connect_or_start(places(environ, os.geteuid()), ("env", where, *self._daemon))

    def disconnect(self) -> None:
        """Close the connection; the daemon goes on, and the next call connects anew."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def kill_daemon(self) -> None:
        """SIGKILL the daemon and wait for its end; the next call starts another."""
        self._end(signal.SIGKILL)

    def power_off(self) -> None:
        """Take away what does not outlive the machine; the next call starts it again."""
        self.kill_daemon()
        umount(os.fsencode(os.path.abspath(self.merged)), MNT_DETACH)

    def stop_daemon(self) -> None:
        """SIGTERM the daemon and wait for its end; the next call starts another."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """Delete the environment, end the daemon, and make sure that nothing is mounted."""
        self.disconnect()  # another sandbox may have ended the daemon that was known here
        if self.home.exists():
            if any(row["stack"] == str(self.stack) for row in self.environments()):
                self.down(purge=True)
            self.stop_daemon()
        assert not os.path.ismount(self.merged), f"{self.merged} is still mounted"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            self.disconnect()

    def _env(self, method: str, **params: object) -> Json:
        answer: Json = self.call(f"env.{method}", stack=str(self.stack), **params)
        return answer

    def _end(self, number: int) -> None:
        pid = self.client.daemon_pid
        self.disconnect()
        waiting.kill(pid, number, f"the daemon {pid}")
