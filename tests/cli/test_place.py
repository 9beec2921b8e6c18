"""Which environment a command means, by where it is called from."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from envstack.cli import place
from envstack.errors import Unsupported
from envstack.linux import covered, syscalls
from tests.cli.harness import status
from tests.support import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.harness import Cli, FakeCall, FakeDaemon


def meant(daemon: FakeDaemon) -> dict[str, str]:
    """Return the parameters that named the environment in the last call."""
    return {
        key: daemon.calls[-1][1][key] for key in ("stack", "upper") if key in daemon.calls[-1][1]
    }


@contextmanager
def mounted(source: str, point: Path) -> Iterator[Path]:
    """A tmpfs stands in for a merged tree: its source is all that is looked at."""
    program = needs.program("mount")
    point.mkdir(parents=True, exist_ok=True)
    subprocess.run([program, "-t", "tmpfs", source, point], check=True)
    try:
        yield point
    finally:
        syscalls.umount(os.fsencode(point), syscalls.MNT_DETACH)


@pytest.fixture
def merged(project: Path) -> Iterator[Path]:
    """The project's merged tree, with a copy of the stack file in it as a real one has."""
    with mounted("envstack:feed", project / ".envstack" / "merged") as point:
        (point / "envstack.yaml").write_text("version: 1\n")
        (point / "deep" / "er").mkdir(parents=True)
        yield point


def test_it_is_that_of_the_nearest_stack_file_upwards(cli: Cli, daemon: FakeDaemon) -> None:
    inner = cli.cwd / "a" / "b"
    inner.mkdir(parents=True)
    outer = cli.cwd
    cli.cwd = inner
    cli("status")
    assert meant(daemon) == {"stack": str(outer / "envstack.yaml")}
    (outer / "a" / "envstack.yaml").touch()
    cli("status")
    assert meant(daemon) == {"stack": str(outer / "a" / "envstack.yaml")}


def test_another_directory_can_be_named(
    cli: Cli, daemon: FakeDaemon, directory: Callable[[], Path]
) -> None:
    project, cli.cwd = cli.cwd, directory()
    cli("-C", str(project), "status")
    assert meant(daemon) == {"stack": str(project / "envstack.yaml")}


def test_a_stack_file_is_known_by_its_canonical_path(
    cli: Cli, daemon: FakeDaemon, directory: Callable[[], Path]
) -> None:
    stack, cli.cwd = cli.cwd / "envstack.yaml", directory()
    (cli.cwd / "envstack.yaml").symlink_to(stack)
    cli("status")
    assert meant(daemon) == {"stack": str(stack)}
    cli("up", "envstack.yaml")
    assert meant(daemon) == {"stack": str(stack)}


def test_a_project_may_have_any_name(
    cli: Cli, daemon: FakeDaemon, directory: Callable[[], Path]
) -> None:
    odd = os.fsencode(directory()) + b"/:,\\\n\xff"
    os.mkdir(odd)
    with open(odd + b"/envstack.yaml", "wb"):
        pass
    cli("-C", odd, "status")
    assert os.fsencode(meant(daemon)["stack"]) == odd + b"/envstack.yaml"


@pytest.mark.kernel
@pytest.mark.parametrize("below", [".", "deep/er"])
def test_inside_a_merged_tree_it_is_that_tree(
    cli: Cli, daemon: FakeDaemon, merged: Path, below: str
) -> None:
    cli.cwd = merged / below
    cli("status")
    assert meant(daemon) == {"upper": "feed"}


@pytest.mark.kernel
def test_beside_a_merged_tree_it_is_the_stack_file(
    cli: Cli, daemon: FakeDaemon, merged: Path
) -> None:
    cli("status")
    assert meant(daemon) == {"stack": str(cli.cwd / "envstack.yaml")}


@pytest.mark.kernel
def test_a_mount_inside_a_merged_tree_belongs_to_it(
    cli: Cli, daemon: FakeDaemon, merged: Path
) -> None:
    with mounted("tmpfs", merged / "deep") as inner:
        (inner / "envstack.yaml").touch()
        cli.cwd = inner
        cli("status")
        assert meant(daemon) == {"upper": "feed"}


@pytest.mark.kernel
def test_the_innermost_of_two_merged_trees_is_meant(
    cli: Cli, daemon: FakeDaemon, merged: Path
) -> None:
    with mounted("envstack:beef", merged / "deep") as inner:
        cli.cwd = inner
        cli("status")
        assert meant(daemon) == {"upper": "beef"}


@pytest.mark.kernel
def test_a_directory_bound_below_itself_is_not_the_top(
    cli: Cli, daemon: FakeDaemon, merged: Path
) -> None:
    subprocess.run([needs.program("mount"), "--bind", merged, merged / "deep"], check=True)
    with ExitStack() as stack:
        point = os.fsencode(merged / "deep")
        stack.callback(syscalls.umount, point, syscalls.MNT_DETACH)
        cli.cwd = merged / "deep"
        cli("status")
        assert meant(daemon) == {"upper": "feed"}


@pytest.mark.kernel
def test_the_stack_file_of_a_merged_tree_is_read_from_the_project_below(
    cli: Cli, daemon: FakeDaemon, merged: Path
) -> None:
    stack = cli.cwd / "envstack.yaml"
    daemon.answers["env.status"] |= {"stack": str(stack)}
    cli.cwd = merged
    cli("up")
    assert meant(daemon) == {"stack": str(stack)}
    assert cli("validate", "--json").document["path"] == str(stack)


@pytest.mark.kernel
@pytest.mark.parametrize("arguments", [("status",), ("up",), ("up", "envstack.yaml"), ("init",)])
def test_a_tree_that_was_swapped_out_is_no_environment(
    cli: Cli, daemon: FakeDaemon, project: Path, arguments: tuple[str, ...]
) -> None:
    with mounted("envstack:old", project / "merged") as old, mounted("tmpfs", old) as cwd:
        (cwd / "envstack.yaml").touch()
        cli.cwd = cwd
        detach = "from envstack.linux import syscalls\nsyscalls.umount(os.getcwdb(), 2)"
        done = cli.python(detach, *arguments, "--json")
        subprocess.run([needs.program("mount"), "-t", "tmpfs", "tmpfs", cwd], check=True)
    assert (done.code, done.error["kind"]) == (4, "state")
    assert done.error["hint"] == 'cd "$PWD"'
    assert daemon.calls == []


@pytest.mark.kernel
def test_the_command_is_no_holder_itself(cli: Cli, daemon: FakeDaemon, merged: Path) -> None:
    def look(call: FakeCall) -> dict[str, str]:
        return status(name=os.readlink(f"/proc/{call.peer_pid}/cwd"))

    daemon.answers["env.status"] = look
    cli.cwd = merged
    assert cli("status", "--json").document["name"] == "/"


def test_a_tree_deeper_than_a_path_can_say_is_no_obstacle(
    cli: Cli, daemon: FakeDaemon, project: Path
) -> None:
    dive = "for _ in range(30):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\n"
    cli.python(dive, "status")
    assert meant(daemon) == {"stack": str(project / "envstack.yaml")}


def test_a_stack_file_that_nobody_can_compare_is_not_said_to_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def open_covered(_mount: object) -> int:
        raise Unsupported("this kernel and file system do not show what lies below")

    monkeypatch.setattr(covered, "open_covered", open_covered)
    assert place.shows_its_stack_file({"stack": "/envstack.yaml", "project": "/", "mount": "/"})
