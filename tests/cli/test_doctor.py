"""What `doctor` says of a machine, on real file systems and where calls are forbidden for real."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from envstack.linux.mountinfo import read_mounts
from tests.cli.harness import MODULE, Cli
from tests.support import needs
from tests.support.filesystems import FILESYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.harness import Done, FakeDaemon

KERNEL = (
    "overlay",
    "lowerdir+",
    "overlay by mount(2)",
    "mount beneath",
    "read-only mount",
    "read-only superblock",
    "mount ids",
)
STORE = ("store", "upper on the store", "attributes", "entry types", "reflink", "leases")


def checks(done: Done) -> dict[str, dict[str, Any]]:
    """Return the checks by name, from standard output alone."""
    rows = json.loads(done.out)["checks"]
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names)), "a name stands for one check"
    assert all(row.keys() == {"name", "state", "found", "hint"} for row in rows)
    assert all(bool(row["hint"]) == (row["state"] != "ok") for row in rows)
    return {row["name"]: row for row in rows}


def states(done: Done, names: tuple[str, ...]) -> dict[str, str]:
    found = checks(done)
    return {name: found[name]["state"] for name in names if name in found}


def forbidding(cli: Cli, injected: str, *arguments: str) -> Done:
    """Run a command in a kernel in which `injected` (strace's language) is what some calls do."""
    strace = needs.program("strace")
    call = injected.partition(":")[0]
    tracer = (strace, "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e")
    return cli(*arguments, command=(*tracer, f"inject={injected}", *MODULE))


def as_user(cli: Cli, *arguments: str) -> Done:
    """Run a command as a user who may read this checkout and its Python, and do nothing else."""
    setpriv = needs.program("setpriv")
    reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    who = ("--reuid=65534", "--regid=65534", "--clear-groups")
    return cli(*arguments, command=(setpriv, *who, *reading, *MODULE))


def test_this_machine_can_do_everything_that_the_other_tests_rely_on(cli: Cli) -> None:
    done = cli("doctor", "--json")
    assert (done.code, done.document["ok"]) == (0, True)
    assert set(states(done, KERNEL).values()) == {"ok"}
    assert list(states(done, KERNEL)) == list(KERNEL)


def test_it_leaves_nothing_behind(cli: Cli, home: Path) -> None:
    before = read_mounts()
    assert cli("doctor").code == 0
    assert read_mounts() == before
    assert not home.exists()
    assert not [name for name in os.listdir(home.parent) if "doctor" in name]


@pytest.mark.kernel
@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_the_file_system_of_the_store_is_known_by_trying(
    cli: Cli, filesystem: Callable[[str], Path], kind: str
) -> None:
    root = filesystem(kind)
    cli.environ["ENVSTACK_HOME"] = str(root / "deep" / "home")
    found = checks(cli("doctor", "--json"))
    assert f" on {kind}, " in found["store"]["found"]
    assert found["upper on the store"]["state"] == "ok"
    assert found["reflink"]["state"] == ("ok" if kind in ("xfs", "btrfs") else "limited")
    assert found["time stamps"]["state"] == "ok"
    assert found["entry types"]["state"] == "ok"
    assert set(os.listdir(root)) <= {"lost+found"}


@pytest.mark.kernel
def test_inodes_too_small_for_fine_time_stamps_are_told(
    cli: Cli, directory: Callable[[], Path]
) -> None:
    place = directory()
    image = place / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    mkfs = needs.program("mkfs.ext4")
    subprocess.run([mkfs, "-q", "-I", "128", image], check=True, capture_output=True)
    (place / "m").mkdir()
    subprocess.run(["mount", "-o", "loop", image, place / "m"], check=True)
    try:
        cli.environ["ENVSTACK_HOME"] = str(place / "m")
        found = checks(cli("doctor", "--json"))["time stamps"]
        assert (found["state"], found["found"]) == ("limited", "steps of 1 s or more")
        assert "-I 256" in found["hint"]
    finally:
        subprocess.run(["umount", place / "m"], check=True)


@pytest.mark.kernel
def test_a_store_on_an_overlay_is_refused_with_the_way_out(
    cli: Cli, directory: Callable[[], Path]
) -> None:
    place = directory()
    for name in ("lower", "upper", "work", "root"):
        (place / name).mkdir()
    layers = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", place / "root"], check=True)
    try:
        cli.environ["ENVSTACK_HOME"] = str(place / "root" / "home")
        done = cli("doctor", "--json")
        found = checks(done)["upper on the store"]
        assert (done.code, found["state"]) == (5, "missing")
        assert "ENVSTACK_HOME" in found["hint"]
        assert os.listdir(place / "upper") == []
    finally:
        subprocess.run(["umount", place / "root"], check=True)


@pytest.mark.kernel
def test_a_full_store_and_a_read_only_one_are_told_apart(
    cli: Cli, filesystem: Callable[[str], Path]
) -> None:
    root = filesystem("tmpfs")
    cli.environ["ENVSTACK_HOME"] = str(root / "home")
    with (root / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, os.statvfs(root).f_bavail * 4096)
    full = cli("doctor", "--json")
    assert full.code == 0
    assert checks(full)["store"]["state"] == "limited"
    assert os.listdir(root) == ["filler"]
    subprocess.run(["mount", "-o", "remount,ro", root], check=True)
    fixed = cli("doctor", "--json")
    assert fixed.code == 5
    assert checks(fixed)["store"]["state"] == "missing"
    assert "Read-only" in checks(fixed)["store"]["found"]


@pytest.mark.parametrize("home", ["/proc/nowhere/home", "/dev/null", "/dev/null/home"])
def test_a_home_that_cannot_be_is_missing(cli: Cli, home: str) -> None:
    cli.environ["ENVSTACK_HOME"] = home
    done = cli("doctor", "--json")
    assert done.code == 5
    assert checks(done)["store"]["state"] == "missing"


@pytest.mark.parametrize(
    ("injected", "name", "state"),
    [
        ("mount_setattr:error=ENOSYS", "read-only mount", "missing"),
        ("fspick:error=ENOSYS", "read-only superblock", "missing"),
        ("fsconfig:error=EINVAL:when=2", "lowerdir+", "limited"),
        ("umount2:error=EPERM:when=1", "overlay by mount(2)", "limited"),
        ("unshare:error=EPERM:when=1", "mount namespace", "missing"),
        ("unshare:signal=SIGSYS:when=1", "mount namespace", "missing"),
    ],
)
def test_a_call_that_the_kernel_refuses_is_named(
    cli: Cli, injected: str, name: str, state: str
) -> None:
    done = forbidding(cli, injected, "doctor", "--json")
    assert checks(done)[name]["state"] == state
    assert done.code == (5 if state == "missing" else 0)


def test_without_root_it_says_what_needs_root(cli: Cli, directory: Callable[[], Path]) -> None:
    place = directory()
    place.chmod(0o777)
    cli.environ["ENVSTACK_HOME"] = str(place / "home")
    done = as_user(cli, "doctor", "--json")
    assert done.code == 5
    found = checks(done)
    assert [name for name, row in found.items() if row["state"] == "missing"] == ["root"]
    assert set(states(done, KERNEL).values()) == {"ok"}, "tried in a user namespace"
    assert os.listdir(place) == []


def test_the_limits_are_held_against_the_uppers_of_the_store(cli: Cli, home: Path) -> None:
    with open("/proc/sys/fs/inotify/max_user_watches", encoding="ascii") as file:
        limit = int(file.read())
    upper = home / "layers" / "ab"
    (upper / "work").mkdir(parents=True)
    for number in range(30):
        (upper / "fs" / str(number)).mkdir(parents=True)
    (home / "layers" / "cd" / "fs" / "sealed").mkdir(parents=True)
    found = checks(cli("doctor", "--json"))["inotify watches"]
    assert found["found"] == f"{limit:,} (31 directories in today's uppers)"


def test_a_daemon_is_found_and_one_elsewhere_told(cli: Cli, daemon: FakeDaemon) -> None:
    found = checks(cli("doctor", "--json"))["daemon"]
    assert found["state"] == "ok"
    assert f"process {os.getpid()}" in found["found"]
    elsewhere = cli("doctor", "--json", command=("unshare", "--mount", *MODULE))
    found = checks(elsewhere)["daemon"]
    assert (found["state"], "another mount namespace" in found["found"]) == ("limited", True)


def test_it_starts_no_daemon(cli: Cli, home: Path) -> None:
    assert checks(cli("doctor", "--json"))["daemon"]["state"] == "ok"
    assert not home.exists()


def test_programs_that_are_not_there_are_named_with_their_packages(
    cli: Cli, directory: Callable[[], Path]
) -> None:
    bin_directory = directory()
    skopeo = bin_directory / "skopeo"
    skopeo.write_text("#!/bin/sh\necho skopeo version 1.9\n")
    skopeo.chmod(0o755)
    cli.environ["PATH"] = f"{bin_directory}:/nowhere"
    (bin_directory / "sh").symlink_to("/bin/sh")
    found = checks(cli("doctor", "--json"))
    assert found["skopeo"] == {
        "name": "skopeo",
        "state": "ok",
        "found": "skopeo version 1.9",
        "hint": "",
    }
    assert found["bubblewrap"]["state"] == "limited"
    assert "apt-get install bubblewrap" in found["bubblewrap"]["hint"]
    assert found["bubblewrap"]["hint"].endswith("for --no-network")


def test_people_see_marks_and_the_hint_below(cli: Cli) -> None:
    cli.environ["ENVSTACK_HOME"] = "/dev/null"
    with cli.on_terminal("doctor") as terminal:
        said = terminal.finish().out
    assert "\x1b[32m✓\x1b[0m overlay" in said
    assert "\x1b[31m✗\x1b[0m store" in said
    assert "hint:\x1b[0m set ENVSTACK_HOME" in said
    plain = cli("doctor").out
    assert "\x1b" not in plain
    assert plain.splitlines()[0].startswith("✓ kernel")


def test_it_tells_how_commands_are_made_to_stand_still(cli: Cli) -> None:
    found = checks(cli("doctor", "--json"))["freezing"]
    assert (found["state"], found["found"].startswith("by ")) == ("ok", True)
    none = cli.python(
        "import envstack.linux.cgroup as cgroup; cgroup._places = lambda: iter(())",
        *("doctor", "--json"),
    )
    found = checks(none)["freezing"]
    assert (found["state"], found["found"]) == ("limited", "no cgroup can be made here")
    assert "SIGSTOP" in found["hint"]
