"""A bare Debian 12 in a directory, entered by chroot: the machine of somebody who is new to this.

What this machine needs for reaching its mirror and its package index (proxies, certificates, pip's
and apt's configuration) is read from it and carried over; nothing else is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import needs

_SUITE = "bookworm"

_CARRIED_OVER = re.compile(r"PIP_.*|(?i:https?|ftp|no|all)_proxy|SSL_CERT_.*|REQUESTS_CA_BUNDLE")
"""Variables of the environment that say how to reach a package index."""

_PIP_CONFIGURATIONS = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.config/pip/pip.conf")

_OWN_AUTHORITIES = Path("/usr/local/share/ca-certificates")
"""What the package ca-certificates, which comes with Python's, adds to those that it has."""

_ENTER = """\
set -e
mount --rbind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
exec chroot "$1" /bin/bash -c "$2"
"""
"""Binding the root on itself makes it a mount, so that it is in the mount table as seen inside."""


class Root:
    """A bare root in the new directory `place`."""

    def __init__(self, place: Path) -> None:
        """Make it by debootstrap; skips the test where this machine cannot."""
        self.place = place
        debootstrap = needs.program("debootstrap")
        _output(debootstrap, "--variant=minbase", _SUITE, str(place), _mirror())
        settings = [line for line in _apt_settings() if "::IndexTargets" not in line]
        (place / "etc/apt/apt.conf.d/99carried-over").write_text("\n".join(settings) + "\n")
        self._environ = {
            key: os.environ[key] for key in filter(_CARRIED_OVER.fullmatch, os.environ)
        }
        named = [*_PIP_CONFIGURATIONS, *_files_named_by_pip(), *self._environ.values()]
        for path in [*map(Path, named), *_OWN_AUTHORITIES.glob("**/*.crt")]:
            self._carry_over(path.expanduser())

    def run(self, script: str) -> str:
        """Return what a shell script prints, as root in a login of its own; fails where it fails.

        It has mount and process namespaces to itself: nothing that it starts or mounts stays.
        """
        unshare = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(
            [*unshare, "sh", "-c", _ENTER, "sh", str(self.place), script],
            env={"HOME": "/root", "TERM": "dumb", "PATH": path, **self._environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}: exit {done.returncode}\n{done.stdout}"
        return done.stdout

    def _carry_over(self, path: Path) -> None:
        if not (path.is_absolute() and path.is_file()):
            return
        home = Path.home()
        inside = Path("root") / path.relative_to(home) if path.is_relative_to(home) else path
        target = self.place / str(inside).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def _mirror() -> str:
    """Return the mirror of Debian 12 that apt is set up for here."""
    apt = needs.program("apt-get")
    shown = ("--format", "$(REPO_URI)", f"Codename: {_SUITE}", "Created-By: Packages")
    mirrors = _output(apt, "indextargets", *shown).split()
    if not mirrors:
        needs.lack("a Debian 12 mirror among apt's sources")
    return mirrors[0]


def _apt_settings() -> list[str]:
    return _output("apt-config", "dump", "--no-empty", "Acquire").splitlines()


def _files_named_by_pip() -> list[str]:
    """Return the absolute paths that stand in pip's configuration here."""
    listed = _output(sys.executable, "-m", "pip", "config", "list")
    return re.findall(r"'(/[^']*)'", listed)


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
