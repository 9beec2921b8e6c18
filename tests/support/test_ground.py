"""Nothing that a test leaves behind goes unnoticed, and no mount of a test is seen outside."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import needs, waiting
from tests.support.filesystems import FILESYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]

LEAVES_A_FILE = """
def test(ground):
    ground.fresh("left").write_text("behind")
"""
LEAVES_A_PROCESS = """
import subprocess
def test(ground):
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    process.returncode = 0  # so that nobody warns of it
    print(f"pid={process.pid}")
"""
LEAVES_A_MOUNT = """
import pytest, subprocess
@pytest.mark.kernel
def test(ground):
    place = ground.fresh("left")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "envstack:0", place], check=True)
"""
LEAVES_A_LOOP_DEVICE = """
import pytest, subprocess
@pytest.mark.kernel
def test(ground):
    image = ground.fresh("left")
    image.write_bytes(bytes(1 << 20))
    subprocess.run(["losetup", "--find", image], check=True)
    image.unlink()
"""
LEAVES_NOTHING = """
def test(home, project):
    home.mkdir()
    (project / "file").write_text("gone with the project")
"""


def run(source: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a session of its own over one test file, under the configuration of this suite."""
    (directory / "test_inner.py").write_text(source)
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-rP", f"--rootdir={ROOT}"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", ROOT / "pyproject.toml", directory],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("source", "line"),
    [
        (LEAVES_A_FILE, "file /"),
        (LEAVES_A_PROCESS, "process "),
        (LEAVES_A_MOUNT, "mount at /"),
        (LEAVES_A_LOOP_DEVICE, "loop device loop"),
    ],
    ids=["file", "process", "mount", "loop device"],
)
def test_what_is_left_behind_fails_the_session_and_is_taken_away(
    directory: Callable[[], Path], source: str, line: str
) -> None:
    done = run(source, directory())
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    told = done.stdout.partition("left behind by the tests")[2]
    assert told.partition("\n")[2].startswith(line)
    for pid in re.findall(r"pid=(\d+)", done.stdout):
        assert not is_running(int(pid))
    for name in re.findall(r"loop\d+", told):
        waiting.until(partial(is_detached, name), f"detaching of {name}")


def is_detached(name: str) -> bool:
    return not Path(f"/sys/block/{name}/loop").exists()


def is_running(pid: int) -> bool:
    """Tell whether the process lives; one that is dead and not reaped does not."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([pidfd], [], [], 0)[0]
    finally:
        os.close(pidfd)


def test_a_clean_session_passes(directory: Callable[[], Path]) -> None:
    done = run(LEAVES_NOTHING, directory())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left behind" not in done.stdout


@pytest.mark.kernel
def test_what_was_mounted_before_is_no_fault_of_the_tests(directory: Callable[[], Path]) -> None:
    mounted = directory()
    subprocess.run(["mount", "-t", "tmpfs", "envstack:0", mounted], check=True)
    try:
        done = run("import pytest\n@pytest.mark.kernel\ndef test(ground): ...\n", directory())
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.kernel
def test_mounts_of_tests_are_seen_by_nobody_else() -> None:
    assert os.readlink("/proc/self/ns/mnt") != os.readlink(f"/proc/{os.getppid()}/ns/mnt")


@pytest.mark.kernel
def test_the_namespace_has_the_propagation_that_was_asked_for(propagation: str) -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    root = next(line for line in lines if line.split()[4] == "/")
    assert ("shared:" in root) == (propagation == "shared")
    assert "master:" not in root


@pytest.mark.kernel
@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_a_file_system_is_of_its_kind(filesystem: Callable[[str], Path], kind: str) -> None:
    root = filesystem(kind)
    (root / "file").write_text("content")
    os.setxattr(root / "file", "trusted.key", b"value")
    told = subprocess.run(
        ["findmnt", "--noheadings", "--output", "FSTYPE", "--mountpoint", root],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == kind


def test_what_the_machine_lacks_is_skipped_but_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="a program"):
        needs.lack("a program")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="a program"):
        needs.lack("a program")
