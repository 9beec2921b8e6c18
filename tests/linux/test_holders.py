"""Which processes hold an overlay, each asked of a real process that really holds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from envstack.linux import holders, opened, proc, syscalls
from envstack.linux.holders import find_holders
from envstack.linux.mountinfo import read_mounts
from envstack.model import Hold, HoldKind
from envstack.overlay.mount import mark_as_copy
from tests.linux.overlays import NOBODY, held, mount_at, mount_on, process, python
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.ground import Ground

pytestmark = pytest.mark.kernel

CLONE_FS, CLONE_FILES = 0x200, 0x400

WAYS = {
    "cwd": ("os.chdir(T)", [("cwd", "")]),
    "root": ("os.chroot(T); os.chdir('/')", [("cwd", ""), ("root", "")]),
    "reading": ("f = open(T + '/file')", [("file", "/file")]),
    "a directory": ("f = os.open(T + '/sub', os.O_RDONLY)", [("file", "/sub")]),
    "only a path": ("f = os.open(T + '/new', os.O_PATH | os.O_RDWR)", [("file", "/new")]),
    "writing": ("f = open(T + '/new', 'w')", [("writing", "/new")]),
    "copied up by writing": ("f = open(T + '/file', 'a')", [("writing", "/file")]),
    "a FIFO": (
        "os.mkfifo(T + '/fifo'); f = os.open(T + '/fifo', os.O_RDWR)",
        [("file", "/fifo")],
    ),
    "mapping": (
        "m = mmap.mmap(os.open(T + '/file', 0), 0, prot=mmap.PROT_READ); os.closerange(3, 99)",
        [("mapping", "/file")],
    ),
    "private writable mapping": (
        "m = mmap.mmap(os.open(T + '/new', 0), 0, flags=mmap.MAP_PRIVATE); os.closerange(3, 99)",
        [("mapping", "/new")],
    ),
    "shared writable mapping": (
        "f = open(T + '/new', 'r+'); m = mmap.mmap(f.fileno(), 0); os.closerange(3, 99)",
        [("mapping-writable", "/new")],
    ),
    "flock": (
        "f = open(T + '/file'); fcntl.flock(f, fcntl.LOCK_EX)",
        [("file", "/file"), ("lock", "/file")],
    ),
    "lockf": (
        "f = open(T + '/new', 'a'); fcntl.lockf(f, fcntl.LOCK_EX)",
        [("writing", "/new"), ("lock", "/new")],
    ),
    "inotify": (
        "libc.inotify_add_watch(libc.inotify_init(), (T + '/sub').encode(), 2)",
        [("inotify", "")],
    ),
    "socket": (
        "s = socket.socket(socket.AF_UNIX); s.bind(T + '/sock')",
        [("socket", "/sock")],
    ),
    "removed file": (
        "f = open(T + '/new', 'w'); os.unlink(T + '/new')",
        [("writing", "/new (deleted)")],
    ),
    "a thread's own cwd": (
        f"""
def away():
    libc.unshare({CLONE_FS}); os.chdir(T); there.set(); threading.Event().wait()
there = threading.Event(); threading.Thread(target=away, daemon=True).start(); there.wait()
""",
        [("cwd", "")],
    ),
    "a thread's own descriptors": (
        f"""
def away():
    libc.unshare({CLONE_FILES}); os.open(T + '/new', os.O_RDWR)
    there.set(); threading.Event().wait()
there = threading.Event(); threading.Thread(target=away, daemon=True).start(); there.wait()
""",
        [("writing", "/new")],
    ),
    "a thread that outlived the first": (
        """
def away():
    f = open(T + '/new', 'a'); os.chdir(T)
    with open('/proc/self/stat') as stat:
        while stat.seek(0) or ' Z ' not in stat.read(): pass
    print('ready', flush=True); sys.stdin.read(); os._exit(0)
threading.Thread(target=away).start(); libc.pthread_exit(None)
""",
        [("writing", "/new"), ("cwd", "")],
    ),
}


@pytest.mark.parametrize(("code", "expected"), WAYS.values(), ids=WAYS)
def test_a_process_holds_by(
    code: str, expected: list[tuple[str, str]], merged: Path, propagation: str
) -> None:
    mount = mount_at(merged)
    assert held(mount) == []
    with process(*python(f"T = {str(merged)!r}\n{code}")) as pid:
        wanted = [(pid, kind, os.fsencode(f"{merged}{path}")) for kind, path in expected]
        assert held(mount) == wanted
    assert held(mount) == []


@pytest.mark.parametrize("code", [code for code, _ in WAYS.values()], ids=WAYS)
def test_nobody_holds_another_overlay_or_what_lies_below(
    code: str, merged: Path, tmp_path: Path
) -> None:
    for name in ("upper", "work", "other"):
        (tmp_path / name).mkdir()
    lower = merged.parent / "lower"
    layers = f"lowerdir={lower},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    mount_on(tmp_path / "other", "-t", "overlay", "-o", layers, "other")
    (tmp_path / "other" / "new").write_text("other")
    (lower / "new").write_text("below")
    try:
        for place in (tmp_path / "other", lower):
            with process(*python(f"T = {str(place)!r}\n{code}")):
                assert held(mount_at(merged)) == []
    finally:
        syscalls.umount(os.fsencode(tmp_path / "other"), syscalls.MNT_DETACH)


def test_a_running_program_is_told_once(merged: Path) -> None:
    program = merged / "cat"
    shutil.copy(shutil.which("cat") or "", program)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as child:
        until(
            lambda: proc.link(b"/proc/%d/exe" % child.pid) == os.fsencode(program),
            "the program runs",
        )
        found = held(mount_at(merged))
        assert child.stdin is not None
        child.stdin.close()
    assert found == [(child.pid, "program", os.fsencode(program))]


def test_a_socket_bound_by_a_relative_path_is_found_at_the_cwd(merged: Path) -> None:
    code = f"os.chdir({str(merged)!r}); s = socket.socket(socket.AF_UNIX); s.bind('sub/s')"
    with process(*python(code)) as pid:
        assert (pid, "socket", b"sub/s") in held(mount_at(merged))


DETACHED = {
    "cwd": ("os.chdir(T)", ("cwd", b"/")),
    "a file of a lower layer": ("f = open(T + '/file')", ("file", b"/file")),
    "a file of the upper": ("f = open(T + '/new', 'w')", ("writing", b"/new")),
    "a removed file": (
        "f = open(T + '/new', 'w'); os.unlink(T + '/new')",
        ("writing", b"/new (deleted)"),
    ),
    "shared writable mapping": (
        "f = open(T + '/new', 'r+'); m = mmap.mmap(f.fileno(), 0); os.closerange(3, 99)",
        ("mapping-writable", b"/new"),
    ),
}


@pytest.mark.parametrize(("code", "expected"), DETACHED.values(), ids=DETACHED)
@pytest.mark.parametrize("layers", ["one", "two"])
def test_who_is_in_a_mount_detached_lazily_is_found_by_the_superblock(
    layers: str,
    code: str,
    expected: tuple[str, bytes],
    overlay: Callable[..., Path],
    filesystem: Callable[[str], Path],
) -> None:
    merged = overlay() if layers == "one" else overlay(filesystem("tmpfs"), "xino=off")
    if layers == "two":
        numbers = {os.stat(merged / name).st_dev for name in (".", "file", "new")}
        assert len(numbers) == 3, "each layer's files have a device of their own"
    point = os.fsencode(merged)
    clone = syscalls.open_tree(point, syscalls.OPEN_TREE_CLONE)
    with process(*python(f"T = {str(merged)!r}\n{code}")) as pid:
        syscalls.umount(point, syscalls.MNT_DETACH)
        target = os.open(point, os.O_PATH)
        mark_as_copy(clone)
        syscalls.move_mount(clone, target)
        os.close(target)
        found = held(mount_at(merged))
    os.close(clone)
    assert found == [(pid, *expected)]


def test_files_of_layers_on_two_file_systems_are_found(
    overlay: Callable[..., Path], filesystem: Callable[[str], Path]
) -> None:
    merged = overlay(filesystem("tmpfs"), "xino=off")
    code = f"T = {str(merged)!r}; f = open(T + '/file'); g = open(T + '/new', 'w')"
    with process(*python(code)) as pid:
        assert held(mount_at(merged)) == [
            (pid, "writing", os.fsencode(merged / "new")),
            (pid, "file", os.fsencode(merged / "file")),
        ]


def test_mappings_are_found_where_maps_shows_the_layers_device(
    merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "_MAPS_TELL_OVERLAYS", (1000, 0))
    name = merged / "a\nb c"
    name.write_text("mapped")
    code = f"f = open({str(name)!r}, 'r+'); m = mmap.mmap(f.fileno(), 0); os.closerange(3, 99)"
    with process(*python(code)) as pid:
        assert held(mount_at(merged)) == [(pid, "mapping-writable", os.fsencode(name))]


def test_those_to_be_ignored_are_not_told_of(merged: Path) -> None:
    mount = mount_at(merged)
    code = f"os.chdir({str(merged)!r})"
    with process(*python(code)) as one, process(*python(code)) as other:
        found = find_holders(mount, ignore=NOBODY | {one})
        assert [holder.pid for holder in found] == [other]
    with open(merged / "file"):
        assert held(mount) == []
        ours = (Hold(HoldKind.FILE, os.fsencode(merged / "file")),)
        (holder,) = find_holders(mount, ignore=frozenset())
        assert (holder.pid, holder.holds) == (os.getpid(), ours)


def test_of_many_holds_those_that_would_be_harmed_are_told_first(merged: Path) -> None:
    code = f"""
T = {str(merged)!r}
files = [open(f"{{T}}/{{n}}", "x+" if n == 40 else "x") for n in range(41)]
for n in range(40):
    os.close(files[n].fileno()); files[n] = os.open(f"{{T}}/{{n}}", 0)
"""
    with process(*python(code)):
        (holder,) = find_holders(mount_at(merged), ignore=NOBODY)
    assert len(holder.holds) == holders.HOLDS
    assert holder.holds[0] == Hold(HoldKind.WRITING, os.fsencode(merged / "40"))
    assert {hold.what for hold in holder.holds[1:]} == {HoldKind.FILE}
    assert not holder.strandable


def test_a_holder_has_a_readable_command_and_a_user(merged: Path) -> None:
    code = "os.setuid(65534); words = '''\n\x1b[31m'''"
    with process(*python(code)[:-1], python(code)[-1] + "#" * 100, cwd=merged) as pid:
        (nobody,) = find_holders(mount_at(merged), ignore=NOBODY)
    assert nobody.pid == pid
    assert nobody.user == "nobody"
    assert nobody.command.startswith(f"{sys.executable} -c ?import")
    assert nobody.command.isprintable()
    assert len(nobody.command) == 80


def test_a_user_without_a_name_is_a_number(merged: Path) -> None:
    with process(*python(f"os.chdir({str(merged)!r}); os.setuid(4123456)")):
        (holder,) = find_holders(mount_at(merged), ignore=NOBODY)
    assert holder.user == "4123456"


def test_a_cwd_deeper_than_paths_go_is_named_by_the_mount(merged: Path) -> None:
    code = f"""
os.chdir({str(merged)!r})
for _ in range(40):
    os.mkdir("d" * 200); os.chdir("d" * 200)
"""
    with process(*python(code)) as pid:
        assert held(mount_at(merged)) == [(pid, "cwd", os.fsencode(merged))]


@pytest.mark.parametrize("user", [0, 65534])
def test_a_file_system_without_a_server_breaks_and_hides_nothing(
    user: int, merged: Path, ground: Ground
) -> None:
    """FUSE lets statx(2) of one fail, and of any that is another user's."""
    point = ground.fresh("fuse")
    point.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id={user},group_id={user}"
    subprocess.run(
        ["mount", "-i", "-t", "fuse", "-o", options, "none", point], check=True, pass_fds=[server]
    )
    os.close(server)
    refused = os.open(point, os.O_PATH)
    assert proc.mount_of(b"/proc/self/fd/%d" % refused) == mount_at(point).id
    everybody: frozenset[int] = frozenset()
    with open(merged / "file"):
        attached = find_holders(mount_at(merged), ignore=everybody)
        syscalls.umount(os.fsencode(point), syscalls.MNT_DETACH)
        detached = find_holders(mount_at(merged), ignore=everybody)
    os.close(refused)
    point.rmdir()
    hold = Hold(HoldKind.FILE, os.fsencode(merged / "file"))
    assert [holder.holds for holder in attached] == [(hold,)]
    assert detached == attached


SEPARATE = {
    "private": "unshare -m --propagation private",
    "slave": "unshare -m --propagation slave",
    "peer": "unshare -m --propagation unchanged",
    "in a user namespace": "unshare -Urm --propagation slave",
}
"""Ways into another mount namespace."""

ARRANGED = {
    "as it is": "",
    "a bind elsewhere": "mount --bind $M $S",
    "a bind of a directory": "mount --bind $M/sub $S",
    "its parent bound elsewhere": "mount --rbind $M/.. $S",
    "its parent made private": "mount --make-private /",
    "the copy made private": "mount --make-private $M",
    "a mount inside": "mount -t tmpfs inside $M/sub",
    "a mount over it": "mount -t tmpfs over $M",
    "a mount inside and one over it": "mount -t tmpfs in $M/sub; mount -t tmpfs over $M",
    "gone": "umount -l $M || true",
    "of a changed root": "mount --rbind / $S && exec chroot $S sh -c 'echo ready; exec cat'",
}
"""What is then done there to the copy at $M, with a spare directory $S."""


@pytest.mark.parametrize("arranged", ARRANGED.values(), ids=ARRANGED)
@pytest.mark.parametrize("separate", SEPARATE.values(), ids=SEPARATE)
def test_a_namespace_holds_exactly_if_a_copy_there_outlives_the_original(
    separate: str, arranged: str, merged: Path, propagation: str
) -> None:
    """The kernel is the judge: the mount is detached, and the other namespace looked at.

    What a peer does comes back to this namespace, whose own holds are not the matter here.
    """
    spare = merged.parent / "spare"
    spare.mkdir()
    mount = mount_at(merged)
    kept = os.open(merged, os.O_PATH)  # or its device number may soon be another's
    script = f"set -e; M={merged}; S={spare}; {arranged or ':'}; echo ready; exec cat"
    with process(*separate.split(), "sh", "-c", script) as pid:
        found = [hold for hold in held(mount) if hold[0] is not None]
        while any(each.id == mount.id for each in read_mounts()):
            syscalls.umount(os.fsencode(merged), syscalls.MNT_DETACH)
        stayed = [left for left in read_mounts(pid) if left.device == mount.device]
    os.close(kept)
    assert {who for who, _, _ in found} == ({pid} if stayed else set())
    assert {kind for _, kind, _ in found} <= {"copy", "mount-inside"}


def test_a_slave_of_a_slave_follows_too(merged: Path, propagation: str) -> None:
    enter = "unshare -m --propagation slave sh -c"
    inner = f"{enter} 'echo ready; exec cat'"
    outer = f"mount --make-rshared /; {inner}; :"
    mount = mount_at(merged)
    with process(*enter.split(), outer):
        kinds = [kind for _, kind, _ in held(mount)]
    assert kinds == ([] if propagation == "shared" else ["copy", "copy"])


def test_a_process_in_a_copy_that_follows_is_a_holder(merged: Path, propagation: str) -> None:
    script = f"cd {merged}; exec 5>>new; echo ready; exec cat"
    with process("unshare", "-m", "--propagation", "slave", "sh", "-c", script) as pid:
        found = [hold for hold in held(mount_at(merged)) if hold[1] != "copy"]
    assert found == [
        (pid, "writing", os.fsencode(merged / "new")),
        (pid, "cwd", os.fsencode(merged)),
    ]


def test_one_that_has_no_more_than_a_mapping_in_a_copy_that_follows_is_found(
    merged: Path, propagation: str
) -> None:
    code = WAYS["mapping"][0]
    command = python(f"T = {str(merged)!r}\n{code}")
    with process("unshare", "-m", "--propagation", "slave", *command) as pid:
        found = [hold for hold in held(mount_at(merged)) if hold[1] != "copy"]
    assert found == [(pid, "mapping", os.fsencode(merged / "file"))]


def test_mounts_of_this_namespace_hold_without_a_process(merged: Path, propagation: str) -> None:
    mount = mount_at(merged)
    bind = merged.parent / "bind"
    bind.mkdir()
    mount_on(bind, "--bind", merged / "sub")
    mount_on(merged / "sub", "-t", "tmpfs", "inside")
    mount_on(merged, "-t", "tmpfs", "cover")
    (holder,) = find_holders(mount, ignore=NOBODY)
    for point in (merged, merged / "sub", bind):
        syscalls.umount(os.fsencode(point), syscalls.MNT_DETACH)
    assert (holder.pid, holder.command, holder.strandable) == (None, "mount", False)
    assert {(str(hold.what), hold.path) for hold in holder.holds} >= {
        ("bind", os.fsencode(bind)),
        ("mount-inside", os.fsencode(merged / "sub")),
        ("mount-inside", os.fsencode(merged)),
    }
    assert find_holders(mount, ignore=NOBODY) == ()
