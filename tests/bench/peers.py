"""podman and buildah on a storage of their own, so that nobody else's containers are touched.

Everything that they keep lies below one directory: deleting it after its mounts are gone is all
that there is to clean up. It never calls `podman system reset`, which reaches for networks and
machines outside of the storage as well.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import timing

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = ("podman", "buildah", "runc")

_CACHE = Path("/var/lib/containers")
"""Both keep a cache of blobs here for root, whatever the storage is (containers/image)."""

_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{0}/storage"
runroot = "{0}/run"
"""

_ENGINE = """\
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
lock_type = "file"
events_logger = "none"
tmp_dir = "{0}/tmp"
volume_path = "{0}/volumes"
[network]
network_config_dir = "{0}/networks"
"""


class Containers:
    """Commands of podman and buildah on the storage in `place`."""

    def __init__(self, place: Path) -> None:
        (place / "storage.conf").write_text(_STORAGE.format(place))
        (place / "containers.conf").write_text(_ENGINE.format(place))
        self.environ = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(place / "storage.conf"),
            "CONTAINERS_CONF": str(place / "containers.conf"),
            "TMPDIR": str(place),
        }
        driver = self.run("podman", "info", "--format", "{{.Store.GraphDriverName}}")
        if driver != "overlay":  # vfs copies whole trees, and would be no peer
            raise RuntimeError(f"podman keeps its storage with the driver {driver} here")

    def run(self, *command: str) -> str:
        """Return what a command prints."""
        return timing.output(command, self.environ).strip()

    def time(self, *command: str) -> float:
        """Return the seconds that a command takes as a whole process."""
        return timing.program(command, self.environ)

    def podman(self) -> tuple[str, Path]:
        """Return a new podman container of an empty image, and its merged tree."""
        empty = ("tar", "--create", "--files-from", os.devnull)
        archive = subprocess.run(empty, check=True, capture_output=True).stdout
        importing = ("podman", "import", "--quiet", "-")
        done = subprocess.run(
            importing, env=self.environ, input=archive, check=True, capture_output=True
        )
        image = done.stdout.decode().strip()
        container = self.run("podman", "create", "--network", "none", image, "/bin/true")
        return container, Path(self.run("podman", "mount", container))

    def buildah(self) -> tuple[str, Path]:
        """Return a new buildah container from scratch, and its merged tree."""
        container = self.run("buildah", "from", "scratch")
        return container, Path(self.run("buildah", "mount", container))


@contextmanager
def containers(place: Path) -> Iterator[Containers]:
    """Yield podman and buildah in `place`, with the cache that they share out of the way.

    For a mount namespace of one's own; the mounts of the containers go with it.
    """
    place.mkdir()
    is_new = not _CACHE.exists()
    _CACHE.mkdir(parents=True, exist_ok=True)
    timing.output(("mount", "-t", "tmpfs", "bench", str(_CACHE)))
    try:
        yield Containers(place)
    finally:
        timing.output(("umount", str(_CACHE)))
        if is_new:
            _CACHE.rmdir()
