"""The kernel part of the suite for once on a real older kernel: Debian's 6.1, in a machine of qemu.

The machine sees this one's files through 9p, which is slow for many small ones: what Python reads
comes over in one archive. It has an ext4 of its own, in memory. Without KVM all is emulated, so
only a part of the tests is run, and in the older way alone: this kernel has no other.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tarfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from tests.support import needs, trees

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.ground import Ground

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
META, WANTED = "linux-image-amd64", r"linux-image-6\.1\.\d+-\d+-amd64"
WITHIN = 900
ALL = os.environ.get("ENVSTACK_CRASH") == "all"

CHOSEN = (
    "tests/overlay/test_mount.py",
    "tests/environment/test_checkpoint.py",
    *(["tests/crash/test_steps.py::test_nor_where_mounts_are_exchanged_in_turn"] if ALL else []),
)
WHICH = "older and not succession and not rebuild and not rollback-"
"""Without what takes long; daemons are killed in the long run, and in a checkpoint alone."""
FEWEST = 40
"""So many of them must have passed: a machine that runs nothing has no failures."""

UNUSED = re.compile(
    r"^/(site-packages|dist-packages|test|idlelib|lib2to3|config-[^/]*|mypy|mypyc|pip|setuptools)(/|$)"
    r"|\.a$|/bin/ruff|virtme|__mypyc|ast_serialize|librt"
)
"""What comes over with Python is small without these; the packages are brought by themselves."""

INSIDE = """
set -e
modprobe loop; modprobe ext4
mkdir -p /run/memory /run/es /run/checkout
mount -t tmpfs -o size=2g memory /run/memory
tar xf {out}/tree.tar -C /run/memory
truncate -s 1g /run/memory/image
mkfs.ext4 -q -F /run/memory/image
mount -o loop /run/memory/image /run/es
mount --bind /run/memory{stdlib} {stdlib}
mount --bind /run/memory{packages} {packages}
mount --bind /run/memory{checkout} /run/checkout
cd /run/checkout
export TMPDIR=/run/es PYTHONPATH=/run/checkout HOME=/root
uname -r > {out}/kernel
{python} -m pytest -v -p no:cacheprovider -k '{which}' --junitxml={out}/junit.xml {chosen} \\
    > {out}/log 2>&1
"""


@pytest.fixture
def kernel(ground: Ground) -> Iterator[Path]:
    """The kernel image of Debian's package, unpacked beside its modules."""
    package = _package()
    place = ground.fresh("k")
    place.mkdir()
    # Not sandboxed by apt's own user, who could not write here.
    fetch = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", package]
    if subprocess.run(fetch, cwd=place, check=False, capture_output=True).returncode:
        needs.lack(f"the package {package}")
    (archive,) = place.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, place / "root"], check=True)
    (image,) = (place / "root" / "boot").glob("vmlinuz-*")
    yield image
    trees.remove(place)


def _package() -> str:
    """Return the name of the package that `META` stands for, or skip where that is none of 6.1."""
    shown = subprocess.run(
        [needs.program("apt-cache"), "depends", META], check=False, capture_output=True, text=True
    )
    found = re.search(WANTED, shown.stdout)
    if found is None:
        needs.lack("Debian 12's kernel among apt's packages")
    return found[0]


def test_the_kernel_part_of_the_suite_passes_on_debians_6_1(
    kernel: Path, directory: Callable[[], Path]
) -> None:
    out = directory()
    _boot(kernel, out, _script(out))
    names = [name for name in ("console", "log") if (out / name).exists()]
    said = "\n".join((out / name).read_text(errors="replace")[-8000:] for name in names)
    assert (out / "junit.xml").exists(), f"the tests did not come to their end:\n{said}"
    assert (out / "kernel").read_text().startswith("6.1.")
    (suite,) = ElementTree.parse(out / "junit.xml").getroot()
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    assert counts["failures"] == counts["errors"] == 0, said
    assert counts["tests"] - counts["skipped"] >= FEWEST, counts


def _script(out: Path) -> Path:
    """Write what the machine does, and what it reads, into `out`."""
    stdlib, packages = sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")
    own = (ROOT / name for name in ("envstack", "tests", "pyproject.toml"))
    with tarfile.open(out / "tree.tar", "w") as archive:
        for place in (Path(stdlib), Path(packages), *own):
            archive.add(place, filter=partial(_needed, place))
    script = out / "inside"
    places = {"out": out, "stdlib": stdlib, "packages": packages, "checkout": ROOT}
    script.write_text(
        INSIDE.format(
            python=sys.executable,
            which=WHICH,
            chosen=" ".join(map(shlex.quote, CHOSEN)),
            **places,
        )
    )
    return script


def _needed(place: Path, info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what no test reads below `place`."""
    below = f"/{info.name}".removeprefix(str(place))
    return None if UNUSED.search(below) else info


def _boot(kernel: Path, out: Path, script: Path) -> None:
    """Start a machine with this kernel, and wait until it has done what `script` says."""
    for program in ("qemu-system-x86_64", "modprobe", "busybox", "mkfs.ext4"):
        needs.program(program)
    tools = Path(sys.executable).parent
    command = [
        *(needs.program("vng", tools), "--run", str(kernel), "--disable-kvm", "--force-9p"),
        *("--cpus", "2", "--memory", "3G", "--rwdir", str(out), "--exec", f"sh {script}"),
    ]
    path = f"{tools}:{os.environ['PATH']}:/usr/sbin:/sbin"
    with (out / "console").open("wb") as console:
        subprocess.run(
            command,
            check=False,
            timeout=WITHIN,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**os.environ, "PATH": path},
        )
