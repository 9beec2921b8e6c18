"""`run` and `shell` in a tree that is a root file system: busybox, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import MODULE, WITHIN, read
from tests.running.harness import PROGRAM, bring_up, screen, take_down
from tests.support import needs, trees, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.running.harness import Environment
    from tests.support.ground import Ground

pytestmark = pytest.mark.kernel

APPLETS = ("sh", "cat", "ls", "id", "pwd", "tty", "sleep", "touch", "kill", "stat", "readlink")


@pytest.fixture(scope="module")
def box(ground: Ground) -> Iterator[Environment]:
    """A root file system whose /bin is a link, as it is everywhere today."""
    needs.program("bwrap")
    if not ground.isolated:
        needs.lack("root (CAP_SYS_ADMIN), which mounting takes")
    project, home = ground.fresh("d"), ground.fresh("h")
    _fill(project / "base")
    yield (environment := bring_up(project, home, layers=[{"name": "base", "dir": "base"}]))
    take_down(environment)
    trees.remove(project)
    trees.remove(home)


def _fill(root: Path) -> None:
    for name in ("usr/bin", "etc", "dev", "proc", "tmp", "run", "home"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("/usr/bin")
    shutil.copy2(needs.program("busybox"), root / "usr/bin/busybox")
    for name in APPLETS:
        (root / "usr/bin" / name).symlink_to("/bin/busybox")
    (root / "etc/resolv.conf").symlink_to("../run/resolved")
    (root / "run/resolved").write_text("none yet\n")
    (root / "etc/not-executable").touch()


def test_the_tree_is_the_root_directory(box: Environment) -> None:
    assert set(box.cli("run", "ls", "/").out.split()) == {
        *("bin", "dev", "etc", "home", "proc", "run", "tmp", "usr"),
    }
    assert box.cli("run", "sh", "-c", "pwd; echo $ENVSTACK_ENV $ENVSTACK_MOUNT").out == "/\nweb /\n"
    assert box.at(box.merged / "etc")("run", "pwd").out == "/etc\n"


def test_inside_there_are_proc_dev_tmp_and_the_names_of_the_network(box: Environment) -> None:
    script = (
        "cat /proc/self/comm; echo >/dev/null; stat -c %a /tmp; >/tmp/new; cat /etc/resolv.conf"
    )
    comm, mode, *names = box.cli("run", "sh", "-c", script).out.splitlines()
    assert (comm, mode) == ("cat", "1777")
    assert names == Path("/etc/resolv.conf").read_text().splitlines()
    assert box.cli("diff").out == "no changes\n", "and nothing of it is in the tree"


def test_it_writes_into_the_merged_tree(box: Environment) -> None:
    assert box.cli("run", "touch", "/home/new").code == 0
    assert box.cli("diff").out == "A home/new\n1 added\n"
    assert box.cli("run", "sh", "-c", "rm -f /home/new || busybox rm /home/new").code == 0


def test_exit_codes_are_as_ever(box: Environment) -> None:
    codes = (
        (3, ("sh", "-c", "exit 3")),
        (126, ("/etc/not-executable",)),
        (126, ("/etc",)),
        (127, ("no-such-command",)),
        (127, ("python3",)),
    )
    for code, command in codes:
        assert (code, box.cli("run", "--", *command).code) == (code, code), command


def test_the_network_is_that_of_outside_unless_it_is_cut(box: Environment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reach = ("busybox", "nc", "-w", "1", "127.0.0.1", str(port), "-e", "true")
        assert box.cli("run", *reach).code == 0
        assert box.cli("run", "--no-network", *reach).code != 0


def test_signals_and_what_is_left_in_the_background(box: Environment) -> None:
    script = (
        "trap 'echo ended; exit 7' TERM; sleep 1000 </dev/null >/dev/null 2>&1 & echo $!;"
        "while :; do sleep 0.01; done"
    )
    with box.cli.start("run", "sh", "-c", script, stdout=subprocess.PIPE) as client:
        sleeper = int(read(client, 1)[0])
        client.send_signal(signal.SIGTERM)
        assert read(client, 1) == ["ended"]
        assert client.wait(WITHIN) == 7
    try:
        assert "/envstack-" in Path(f"/proc/{sleeper}/cgroup").read_text()
        assert sleeper in [row["pid"] for row in box.state()["holders"]]
        assert box.cli("down").code == 4
    finally:
        waiting.kill(sleeper, signal.SIGKILL, "the sleeper")


def test_the_terminal_is_the_users(box: Environment) -> None:
    with screen(box.cli, *PROGRAM.split(), "run", "tty") as shown:
        assert shown.see("\n").strip().startswith("/dev/pts/")


def test_a_shell_inside_is_one_that_is_there(box: Environment) -> None:
    for name in ("/bin/bash", "/bin/sh"):
        with screen(box.at(box.project, SHELL=name), *PROGRAM.split(), "shell") as shown:
            shown.see("(web) # ")
            shown.type("echo at $PWD, $$ of $(readlink /proc/$$/exe)\n")
            shown.see("of /usr/bin/busybox")
            shown.type("exit\n")


def test_without_bubblewrap_it_says_what_to_install(box: Environment) -> None:
    done = box.at(box.project, PATH=os.path.dirname(MODULE[0]))("run", "/bin/sh", "-c", "true")
    assert (done.code, "apt-get install bubblewrap" in done.err) == (125, True)


def test_the_stack_file_decides_where_it_says_so(project: Path, home: Path) -> None:
    """And that may change without a layer being built."""
    _fill(project / "base")
    layers = [{"name": "base", "dir": "base", "copy": True}]
    environment = bring_up(project, home, layers=layers, root=False)
    layer = environment.state()["layers"][0]["id"]
    assert environment.cli("run", "/bin/sh", "-c", "pwd").out == f"{environment.merged}\n"
    stack = environment.project / "envstack.yaml"
    stack.write_text(stack.read_text().replace('"root": false', '"root": true'))
    refused = environment.cli("up")
    assert (refused.code, "root: false -> true" in refused.err) == (4, True)
    assert environment.cli("down").code == 0
    assert environment.cli("up").code == 0
    assert environment.state()["layers"][0]["id"] == layer
    done = environment.cli("run", "/bin/sh", "-c", "pwd")
    assert (done.code, done.out, done.err) == (0, "/\n", "")
    take_down(environment)
