"""What a test needs of the machine, and what happens where the machine has it not."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NoReturn

import pytest

from envstack.overlay.older import mounts_beneath
from tests.support.ways import NEWER

if TYPE_CHECKING:
    from pathlib import Path


def lack(what: str) -> NoReturn:
    """Skip the running test for want of `what`; in continuous integration (CI=true), fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"this machine lacks {what}, and CI must run every test", pytrace=False)
    pytest.skip(f"this machine lacks {what}")


def way(name: str) -> str:
    """Return the way of mounting of that name, or skip where the kernel does not have it."""
    if name == NEWER and not mounts_beneath():
        lack("a kernel with `lowerdir+` and mounting beneath (Linux 6.8)")
    return name


def program(name: str, directory: Path | None = None) -> str:
    """Return the path of the program `name`, or skip for want of it; where root looks for them."""
    path = [*([str(directory)] if directory else []), os.environ["PATH"], "/usr/sbin", "/sbin"]
    found = shutil.which(name, path=os.pathsep.join(path))
    if found is None:
        lack(f"the program {name}")
    return found
