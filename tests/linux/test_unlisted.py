"""Who holds an overlay where no process can be named, and that nobody is made up."""

from __future__ import annotations

import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from envstack.linux import syscalls, usage
from envstack.linux.holders import find_holder, find_holders
from envstack.linux.mountinfo import read_mounts
from envstack.model import HoldKind
from tests.linux.overlays import NOBODY, held, mount_at, mount_on, process, python
from tests.support import needs
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.kernel

UNKNOWN = [(None, "unknown")]


def kinds(merged: Path) -> list[tuple[int | None, str]]:
    return [(pid, kind) for pid, kind, _ in held(mount_at(merged))]


@pytest.fixture
def in_flight(merged: Path) -> Iterator[Callable[[str, int], None]]:
    """`in_flight(NAME, FLAGS)` opens a file, sends it to nobody yet, and closes it."""
    with ExitStack() as stack:

        def send(name: str, flags: int) -> None:
            ends = socket.socketpair()
            stack.enter_context(ends[0])
            stack.enter_context(ends[1])
            opened = os.open(merged / name, flags)
            socket.send_fds(ends[0], [b"x"], [opened])
            os.close(opened)

        yield send


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_PATH])
def test_a_descriptor_in_flight_is_held_by_somebody_unknown(
    flags: int, merged: Path, in_flight: Callable[[str, int], None], propagation: str
) -> None:
    in_flight("new", flags)
    (holder,) = find_holders(mount_at(merged), ignore=NOBODY)
    assert (holder.pid, holder.command, holder.user) == (None, "unknown", "")
    assert [(hold.what, hold.path) for hold in holder.holds] == [
        (HoldKind.UNKNOWN, os.fsencode(merged))
    ]
    assert find_holder(mount_at(merged), ignore=NOBODY) == holder


def test_once_it_has_arrived_its_owner_has_a_name(
    merged: Path, in_flight: Callable[[str, int], None]
) -> None:
    in_flight("new", os.O_RDONLY)
    with process(*python(f"f = open({str(merged / 'new')!r})")) as pid:
        assert kinds(merged) == [(pid, "file")]
        found = find_holder(mount_at(merged), ignore=NOBODY)
        assert found is not None
        assert found.pid == pid
    assert kinds(merged) == UNKNOWN


def test_a_file_registered_with_io_uring_is_held_by_somebody_unknown(merged: Path) -> None:
    code = f"""
import struct
ring = libc.syscall(425, 1, ctypes.create_string_buffer(120))
assert ring >= 0 or print('none', flush=True)
f = os.open({str(merged / "new")!r}, os.O_RDWR)
assert libc.syscall(427, ring, 2, (ctypes.c_int * 1)(f), 1) == 0
os.close(f)
"""
    if _lacks_io_uring():
        needs.lack("io_uring")
    with process(*python(code)):
        assert kinds(merged) == UNKNOWN
    until(lambda: kinds(merged) == [], "the ring's end, which the kernel works at")


def _lacks_io_uring() -> bool:
    try:
        with open("/proc/sys/kernel/io_uring_disabled") as setting:
            return setting.read().strip() == "2"
    except FileNotFoundError:
        return True


def test_a_loop_device_is_named(merged: Path) -> None:
    (merged / "disk").write_bytes(bytes(1 << 20))
    command = ["losetup", "--find", "--show", str(merged / "disk")]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode:
        needs.lack("a loop device")
    try:
        (holder,) = find_holders(mount_at(merged), ignore=NOBODY)
    finally:
        subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)
    assert (holder.pid, holder.command) == (None, made.stdout.strip())
    assert [(hold.what, hold.path) for hold in holder.holds] == [
        (HoldKind.LOOP, os.fsencode(merged / "disk"))
    ]
    assert not holder.strandable
    until(lambda: kinds(merged) == [], "the end of the loop device")


def test_no_swap_file_is_on_an_overlay(merged: Path) -> None:
    (merged / "swap").write_bytes(bytes(1 << 20))
    subprocess.run(["mkswap", merged / "swap"], check=True, capture_output=True)
    os.chmod(merged / "swap", 0o600)
    done = subprocess.run(["swapon", merged / "swap"], check=False, capture_output=True, text=True)
    assert "Invalid argument" in done.stderr


@pytest.mark.parametrize("odd", ["", "c,o:l\\on "])
def test_an_overlay_that_has_it_as_a_layer_is_named(odd: str, merged: Path, tmp_path: Path) -> None:
    layer = merged / f"{odd}layer"
    for made in (layer, *(tmp_path / name for name in ("upper", "work", "other"))):
        made.mkdir()
    spelt = str(layer).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
    layers = f"lowerdir={spelt}:{merged.parent},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    data = os.fsencode(layers)
    syscalls.mount(b"other", os.fsencode(tmp_path / "other"), b"overlay", 0, data)
    try:
        assert held(mount_at(merged)) == [(None, "overlay", os.fsencode(tmp_path / "other"))]
        assert find_holders(mount_at(merged), ignore=NOBODY)[0].strandable
        assert held(mount_at(tmp_path / "other")) == []
    finally:
        syscalls.umount(os.fsencode(tmp_path / "other"))


def test_an_overlay_on_what_the_tree_covers_has_another_layer(merged: Path, tmp_path: Path) -> None:
    """Its layer is reached by that path no more: the tree came later."""
    for name in ("plain", "upper", "work", "other"):
        (tmp_path / name).mkdir()
    plain, other = tmp_path / "plain", tmp_path / "other"
    layers = f"lowerdir={plain},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    mount_on(other, "-t", "overlay", "-o", layers, "other")
    clone = syscalls.open_tree(os.fsencode(merged), syscalls.OPEN_TREE_CLONE)
    target = os.open(plain, os.O_PATH)
    syscalls.move_mount(clone, target)
    os.close(target)
    os.close(clone)
    syscalls.umount(os.fsencode(merged))
    try:
        assert held(mount_at(plain)) == []
    finally:
        syscalls.umount(os.fsencode(plain))
        syscalls.umount(os.fsencode(other))


def test_a_namespace_that_no_process_is_in_holds_its_copy(merged: Path, ground_file: Path) -> None:
    mount = mount_at(merged)
    command = ["unshare", f"--mount={ground_file}", "--propagation", "private", "true"]
    # EINVAL for one that seems to be older than ours: ids are handed out by each processor.
    until(
        lambda: subprocess.run(command, check=False, capture_output=True).returncode == 0,
        "a namespace that can be bound",
    )
    found = held(mount)
    syscalls.umount(os.fsencode(ground_file))
    assert found == [(None, "copy", os.fsencode(merged))]
    until(lambda: held(mount) == [], "the end of the namespace")


def test_so_does_one_that_a_descriptor_keeps(merged: Path) -> None:
    with process("unshare", "-m", "sh", "-c", "echo ready; exec cat") as pid:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    found = find_holders(mount_at(merged), ignore=NOBODY)
    os.close(namespace)
    assert [(holder.pid, holder.command) for holder in found] == [(None, "unknown")]
    assert [hold.what for hold in found[0].holds] == [HoldKind.COPY]


@pytest.fixture
def ground_file(tmp_path: Path) -> Iterator[Path]:
    """A file that a namespace can be bound to: on a private mount."""
    tmp_path.joinpath("kept").mkdir()
    point = tmp_path / "kept"
    mount_on(point, "-t", "tmpfs", "kept")
    syscalls.set_propagation(os.fsencode(point), syscalls.MS_PRIVATE)
    file = point / "namespace"
    file.touch()
    yield file
    syscalls.umount(os.fsencode(point))


def test_who_is_ignored_is_nobody_unknown(merged: Path) -> None:
    with process(*python(f"os.chdir({str(merged)!r})")) as pid:
        assert find_holders(mount_at(merged), ignore=NOBODY | {pid}) == ()
        assert find_holder(mount_at(merged), ignore=NOBODY | {pid}) is None
    with open(merged / "file"):
        assert held(mount_at(merged)) == []


def test_nobody_is_unknown_in_quiet_use(merged: Path, propagation: str) -> None:
    """What comes and goes by path is gone again when it is asked about."""
    script = f"while :; do cat {merged}/file; ls {merged}; echo x > {merged}/new; done > /dev/null"
    with process("sh", "-c", f"({script}) & echo ready; cat; kill $!"):
        for _ in range(20):
            assert (None, "unknown") not in kinds(merged)


def test_to_ask_changes_nothing_and_unmounts_nothing(merged: Path, propagation: str) -> None:
    mount = mount_at(merged)
    before = read_mounts()
    for _ in range(5):
        assert usage.is_idle(mount)
        assert not usage.is_used(mount)
    assert read_mounts() == before
    opened = os.open(merged, os.O_PATH)
    assert not usage.is_idle(mount)
    os.close(opened)
    assert usage.is_idle(mount)
    mount_on(merged, "-t", "tmpfs", "cover")
    assert not usage.is_idle(mount)
    assert not usage.is_used(mount), "of one that is covered nothing can be told"
    syscalls.umount(os.fsencode(merged))


def test_many_may_ask_at_once(merged: Path) -> None:
    mount = mount_at(merged)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: usage.is_used(mount), range(400)))
    assert not any(answers)
    assert mount_at(merged) == mount
