"""The programs that envstack can make use of, and its own daemon."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from envstack import client
from envstack.doctor.check import Check, limited, ok
from envstack.errors import EnvstackError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envstack.rpc.places import Places

_SECONDS = 5.0
"""How long a program may take to tell its version, and the daemon to answer."""

_PROGRAMS = (
    ("skopeo", "skopeo", "for `image` layers of registries, in a later version"),
    ("fuse-overlayfs", "fuse-overlayfs", "for use without root, in a later version"),
    ("bubblewrap", "bwrap", "for `envstack run` in a root file system, and for --no-network"),
)


def checks(places: Places) -> Iterator[Check]:
    """Yield which programs are there, and whether the daemon at `places` answers."""
    yield from (_program(*program) for program in _PROGRAMS)
    yield _daemon(places)


def _program(name: str, command: str, use: str) -> Check:
    path = shutil.which(command)
    if path is None:
        return limited(name, "not installed", f"apt-get install {name}, {use}")
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return limited(name, f"{path} does not run: {error}", f"reinstall it, {use}")
    lines = [line for line in done.stdout.splitlines() if line.startswith((name, command))]
    return ok(name, lines[0] if lines else path)


def _daemon(places: Places) -> Check:
    name = "daemon"
    try:
        with client.find(places, _SECONDS) as daemon:
            pid, version = daemon.identity["pid"], daemon.identity["version"]
            found = f"runs: process {pid}, version {version}, in this mount namespace"
            if daemon.is_outdated:
                return limited(name, found, "older than this program: the next command replaces it")
            return ok(name, found)
    except client.NotRunning:
        return ok(name, "none runs; envstack up starts it")
    except EnvstackError as error:
        return limited(name, error.message, error.hint or "is ENVSTACK_HOME what it should be?")
