"""`mount: .`: the merged tree lies over the project itself, whose layers no path reaches then."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from envstack.environment import history
from envstack.environment.steps import Step
from envstack.linux import covered, syscalls
from envstack.overlay.diff import diff
from tests.environment.harness import Bystander, Engine, mounts_at, nothing_changes, refused
from tests.support import trees
from tests.support.edits import mkdir, remove, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.ground import Ground
    from tests.support.sandbox import Sandbox
    from tests.support.trees import Tree

    Make = Callable[..., Engine]
    Run = Callable[..., None]

pytestmark = pytest.mark.kernel

PROJECT = {"name": "project", "dir": "."}


def furnish(engine: Engine, **stack: object) -> Engine:
    """Make a project that is its own only layer: `known`, `dir/inner`, the stack file."""
    engine.project.chmod(0o711)
    for edit in (write("known", "known\n"), mkdir("dir"), write("dir/inner", "inner\n")):
        edit(engine.project)
    engine.declare({"layers": [PROJECT], **stack})
    return engine


@pytest.fixture
def dot(make_engine: Make) -> Engine:
    """An environment over its own project, not up yet."""
    return furnish(make_engine(mount="."))


@pytest.fixture
def before(dot: Engine) -> Tree:
    """The project as it was."""
    return trees.snapshot(dot.project)


@pytest.fixture
def shell(project: Path) -> Iterator[Bystander]:
    """Another process, which ends before the environment does."""
    process = Bystander(project)
    yield process
    process.close()


def live(engine: Engine) -> dict[str, Tree]:
    """Work there over some checkpoints and return the trees that were sealed."""
    sealed: dict[str, Tree] = {}
    for number in range(4):
        engine.write("known", str(number))
        engine.write(f"new {number}")
        remove("dir")(engine.project)
        (write if number % 2 else mkdir)("dir")(engine.project)
        sealed[engine.checkpoint()["id"]] = trees.snapshot(engine.project)
    return sealed


def see(engine: Engine, sealed: dict[str, Tree]) -> None:
    """Go back to every point of `sealed`, and see that `diff` speaks of it alike."""
    for rev, tree in sealed.items():
        engine.rollback(rev)
        assert trees.snapshot(engine.project) == tree
        rows = engine.diff("base")
        expected = trees.changes(sealed["base"], tree)
        assert {(row["path"].encode(), row["change"], row["kind"]) for row in rows} == expected


@pytest.mark.usefixtures("propagation")
def test_a_whole_life_leaves_the_project_as_it_was(dot: Engine, before: Tree) -> None:
    answer = dot.up()
    assert (answer["state"], answer["mount"]) == ("up", str(dot.project))
    assert mounts_at(dot.project) == [f"envstack:{answer['upper']}"]
    assert trees.snapshot(dot.project) == before
    see(dot, {"base": before, **live(dot)})
    dot.rollback("base")
    assert trees.snapshot(dot.project) == before
    os.chmod(dot.project, 0o700)
    dot.down()
    assert mounts_at(dot.project) == []
    assert trees.snapshot(dot.project) == before
    dot.up()
    assert dot.project.stat().st_mode & 0o777 == 0o700
    dot.down(purge=True)
    assert trees.snapshot(dot.project) == before


@pytest.mark.usefixtures("propagation")
def test_a_restart_finds_the_project_below_the_mount(dot: Engine, before: Tree) -> None:
    dot.up()
    sealed = {"base": before, **live(dot)}
    dot.stop()
    dot.write("written meanwhile")
    dot.start()
    sealed[dot.checkpoint()["id"]] = trees.snapshot(dot.project)
    see(dot, sealed)
    dot.down()
    assert trees.snapshot(dot.project) == before


def test_a_killed_daemon_makes_no_difference(
    home: Path, project: Path, sandbox: Callable[..., Sandbox]
) -> None:
    made = sandbox(mount=".", base=[write("known", "known\n")])
    before = trees.snapshot(project)
    made.up()
    for number in range(3):
        write("known", str(number))(project)
        made.kill_daemon()
        made.checkpoint()
    made.rollback("base")
    assert (project / "known").read_text() == "known\n"
    made.down()
    assert trees.snapshot(project) == before


def test_what_a_power_cut_left_is_mounted_again(dot: Engine, before: Tree, run: Run) -> None:
    dot.up()
    sealed = {"base": before, **live(dot)}
    dot.stop()
    run("umount", dot.project)
    assert trees.snapshot(dot.project) == before
    dot.start()
    see(dot, sealed)


def test_what_somebody_unmounted_is_put_back(dot: Engine, before: Tree, run: Run) -> None:
    dot.up()
    sealed = {"base": before, **live(dot)}
    run("umount", dot.project)
    dot.up()
    see(dot, sealed)


class TestWithoutFileHandles:
    """Where the project's file system has none, as an overlay has none."""

    @pytest.fixture
    def dot(self, make_engine: Make, ground: Ground, run: Run) -> Iterator[Engine]:
        place = ground.fresh("o")
        for name in ("lower", "upper", "work", "merged"):
            (place / name).mkdir(parents=True)
        options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
        run("mount", "-t", "overlay", "below", "-o", options, place / "merged")
        try:
            (place / "merged" / "p").mkdir()
            engine = furnish(make_engine(mount=".", project=place / "merged" / "p"))
            yield engine
            engine.close()
        finally:
            run("umount", place / "merged")
            trees.remove(place)

    @pytest.mark.usefixtures("propagation")
    def test_a_restart_finds_the_project_by_a_copy_of_the_mount(
        self, dot: Engine, before: Tree
    ) -> None:
        if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 15):
            pytest.skip("Linux before 6.15 takes no layer on a copy of a mount: refused, see below")
        dot.up()
        sealed = {"base": before, **live(dot)}
        dot.stop()
        dot.start()
        see(dot, sealed)
        dot.down()
        assert trees.snapshot(dot.project) == before

    def test_an_older_kernel_refuses_until_it_was_down(
        self, dot: Engine, before: Tree, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dot.up()
        sealed = {"base": before, **live(dot)}
        dot.stop()
        with monkeypatch.context() as patch:
            patch.setattr(covered, "sys", BeforeLinux615())
            dot.start()
            dot.write("unsealed")
            for act in (dot.checkpoint, dot.rollback, dot.diff, dot.up):
                with nothing_changes(dot), refused(5) as refusal:
                    act()
                assert refusal.hint == "envstack down; envstack up"
            assert dot.status()["state"] == "up"
            dot.down()
            dot.up()
            sealed[dot.checkpoint()["id"]] = trees.snapshot(dot.project)
            see(dot, sealed)


class BeforeLinux615:
    """System calls of a kernel that copies no detached mount."""

    def __init__(self) -> None:
        self._detached: set[int] = set()

    def open_tree(self, path: bytes, flags: int, *, dir_fd: int) -> int:
        mount = syscalls.mount_id(b"", dir_fd=dir_fd)
        if mount in self._detached:
            raise OSError(errno.EINVAL, "open_tree: " + os.strerror(errno.EINVAL))
        copy = syscalls.open_tree(path, flags, dir_fd=dir_fd)
        self._detached.add(syscalls.mount_id(b"", dir_fd=copy))
        return copy

    def __getattr__(self, name: str) -> object:
        return getattr(syscalls, name)


def test_a_project_with_layers_of_its_own_and_of_its_neighbours(
    make_engine: Make, ground: Ground
) -> None:
    place = ground.fresh("n")
    (place / "p" / "src" / "deep").mkdir(parents=True)
    (place / "other").mkdir()
    (place / "copied").mkdir()
    (place / "p" / "src" / "deep" / "file").write_text("src")
    (place / "p" / "only below").write_text("in no layer")
    (place / "other" / "shared").write_text("other")
    (place / "copied" / "c").write_text("copied")
    engine = make_engine(mount=".", project=place / "p")
    engine.declare(
        {
            "layers": [
                {"name": "other", "dir": "../other"},
                {"name": "src", "dir": "src"},
                {"name": "private", "dir": "src", "at": "private"},
                {"name": "copied", "dir": "../copied", "copy": True},
            ]
        }
    )
    before = trees.snapshot(place)
    engine.up()
    base = trees.snapshot(engine.project)
    assert sorted(os.listdir(engine.project)) == ["c", "deep", "private", "shared"]
    assert (engine.project / "private/deep/file").read_text() == "src"
    sealed = {"base": base}
    for name in ("shared", "deep/file", "private/deep/file", "c"):
        engine.write(name)
        sealed[engine.checkpoint()["id"]] = trees.snapshot(engine.project)
        engine.stop()
        engine.start()
    see(engine, sealed)
    engine.close()
    assert trees.snapshot(place) == before
    trees.remove(place)


def test_a_link_in_the_merged_tree_leads_no_layer_elsewhere(
    make_engine: Make, directory: Callable[[], Path]
) -> None:
    """`link` is another directory below, `base` is not in the merged tree at all."""
    elsewhere = directory()
    engine = make_engine(mount=".", base=[write("known")])
    (engine.project / "real/deep").mkdir(parents=True)
    (engine.project / "link").symlink_to("real/../real")
    linked = {"name": "linked", "dir": f"{engine.project}/link/deep"}
    engine.declare({"layers": [{"name": "base", "dir": "base"}, linked]})
    before = engine.up()["layers"]
    (engine.project / "base").symlink_to(elsewhere)
    (engine.project / "link").mkdir()
    assert engine.up()["outdated"] == []
    assert engine.up(rebuild="")["layers"] == before
    engine.stop()
    assert engine.up()["layers"] == before


def test_commands_run_over_the_project_and_see_what_is_below(dot: Engine) -> None:
    command = {"name": "made", "run": "pwd > made; cat known >> made", "inputs": ["known"]}
    copy = {"name": "copy", "dir": "dir", "at": "copied"}
    dot.declare({"layers": [PROJECT, command, copy]})
    before = trees.snapshot(dot.project)
    dot.up()
    assert (dot.project / "made").read_text() == f"{dot.project}\nknown\n"
    dot.write("known", "changed above\n")
    remove("dir")(dot.project)
    assert dot.up()["outdated"] == []
    dot.stop()
    assert dot.up(rebuild="")["saved"]
    assert (dot.project / "made").read_text() == f"{dot.project}\nknown\n"
    assert (dot.project / "copied/inner").read_text() == "inner\n"
    assert (dot.project / "known").read_text() == "known\n"
    dot.down()
    assert trees.snapshot(dot.project) == before


def test_two_projects_over_themselves(make_engine: Make, directory: Callable[[], Path]) -> None:
    engines = [furnish(make_engine(mount=".", project=directory()))]
    other = directory()
    furnish(Engine(engines[0].home, other, {}, "."))
    before = [trees.snapshot(engine) for engine in (engines[0].project, other)]
    one = engines[0]
    one.up()
    one.call("env.up", stack=str(other / "envstack.yaml"))
    for number in range(3):
        one.write("known", f"one {number}")
        (other / "known").write_text(f"other {number}")
        one.checkpoint()
        one.call("env.checkpoint", stack=str(other / "envstack.yaml"))
    assert (one.project / "known").read_text() == "one 2"
    assert (other / "known").read_text() == "other 2"
    one.close()
    assert [trees.snapshot(path) for path in (one.project, other)] == before


class TestTheStackFile:
    """The one below counts, whatever the merged tree shows."""

    @pytest.fixture
    def dot(self, dot: Engine, shell: Bystander) -> Engine:
        """It is up, and a shell still stands in the project below."""
        shell.do(f"os.chdir({str(dot.project)!r})")
        dot.up()
        return dot

    @pytest.mark.parametrize("restart", [False, True])
    def test_a_changed_copy_changes_nothing(self, dot: Engine, restart: bool) -> None:
        dot.stack.write_text("no stack file\n")
        remove("dir")(dot.project)
        if restart:
            dot.stop()
        with nothing_changes(dot):
            assert dot.up()["state"] == "up"
        dot.stack.unlink()
        assert dot.up()["state"] == "up"

    def test_a_fault_in_it_names_its_path(self, dot: Engine, shell: Bystander) -> None:
        text = "version: 1\nlayers:\n  - {name: a, dir: absent}\n"
        shell.do(f"open('envstack.yaml', 'w').write({text!r})")
        with nothing_changes(dot), refused(2, "stack-file") as refusal:
            dot.up()
        assert f"envstack.yaml:3:20: there is no such directory: {dot.project}/absent" in (
            refusal.message
        )
        shell.do("os.unlink('envstack.yaml')")
        with nothing_changes(dot), refused(3) as refusal:
            dot.up()
        assert refusal.message == f"there is no {dot.stack}"

    def test_a_change_of_it_is_told(self, dot: Engine, shell: Bystander) -> None:
        shell.do("os.mkdir('below')")
        text = dot.stack.read_text().replace('"dir": "."', '"dir": "below"')
        shell.do(f"open('envstack.yaml', 'w').write({text!r})")
        with nothing_changes(dot), refused(4) as refusal:
            dot.up()
        assert "layer 'project': dir" in refusal.message


class TestWhoWasThereBefore:
    """Whoever stands in the project below is named by `up`, and is in nobody's way."""

    def left(self, engine: Engine) -> dict[int, set[tuple[str, str]]]:
        rows = engine.up()["left_below"]
        return {row["pid"]: {(hold["what"], hold["path"]) for hold in row["holds"]} for row in rows}

    def test_a_shell_until_it_comes_over(self, dot: Engine, shell: Bystander) -> None:
        inner = f"{dot.project}/dir"
        shell.do(f"os.chdir({inner!r})")
        assert self.left(dot) == {shell.pid: {("cwd", inner)}}
        dot.write("file")
        dot.checkpoint()
        shell.do(f"os.chdir({inner!r})")
        assert self.left(dot) == {}
        dot.write("file")
        with refused(4, "held") as refusal:
            dot.checkpoint(mode="rotate")
        assert refusal.holds == {(shell.pid, "cwd")}

    def test_open_files_and_roots(self, dot: Engine, shell: Bystander) -> None:
        place = str(dot.project)
        shell.do(f"a = open({place + '/known'!r}); b = open({place + '/dir/inner'!r}, 'a')")
        shell.do(f"c = os.open({place!r}, os.O_RDONLY)")
        held = {("file", f"{place}/known"), ("writing", f"{place}/dir/inner"), ("file", place)}
        assert self.left(dot) == {shell.pid: held}
        shell.do(f"a.close(); b.close(); os.close(c); os.chroot({place!r})")
        assert self.left(dot) == {}, "by path it comes to the merged tree"

    def test_neither_its_neighbours_nor_the_daemon_after_a_restart(
        self, dot: Engine, shell: Bystander, directory: Callable[[], Path]
    ) -> None:
        neighbour = dot.project.with_name(dot.project.name + "0")
        neighbour.mkdir()
        shell.do(f"os.chdir({str(neighbour)!r})")
        dot.up()
        dot.stop()
        dot.start()
        dot.diff()
        assert self.left(dot) == {}
        neighbour.rmdir()

    def test_nobody_where_the_mount_lies_elsewhere(self, engine: Engine, shell: Bystander) -> None:
        shell.do(f"os.chdir({str(engine.project)!r})")
        assert self.left(engine) == {}


class TestMountPoint:
    """What cannot be mounted over is refused with the reason, and stays as it is."""

    def refuses(self, engine: Engine, *reasons: str) -> None:
        before = trees.snapshot(engine.project)
        with refused(4) as refusal:
            engine.up()
        for reason in reasons:
            assert reason in refusal.message
        assert trees.snapshot(engine.project) == before
        engine.settle()
        assert engine.environments() == []
        assert os.listdir(engine.home / "layers") == []

    def test_a_project_that_is_the_root_of_a_file_system(
        self, make_engine: Make, ground: Ground, run: Run
    ) -> None:
        project = ground.fresh("t")
        project.mkdir()
        run("mount", "-t", "tmpfs", "disk", project)
        try:
            self.refuses(furnish(make_engine(mount=".", project=project)), "is itself a mount")
        finally:
            run("umount", project)
            project.rmdir()

    def test_a_project_with_something_mounted_inside(self, dot: Engine, run: Run) -> None:
        run("mount", "-t", "tmpfs", "inside", dot.project / "dir")
        try:
            self.refuses(dot, f"{dot.project}/dir is mounted inside the project")
        finally:
            run("umount", dot.project / "dir")

    def test_a_project_that_holds_the_store(self, make_engine: Make, project: Path) -> None:
        engine = make_engine(mount=".", store=project / "store", base=[write("known")])
        with refused(4) as refusal:
            engine.up()
        assert "the store" in refusal.message


def test_an_environment_inside_another_comes_back_after_it(dot: Engine, run: Run) -> None:
    inner = dot.project / "inner"
    inner.mkdir()
    stack = inner / "envstack.yaml"
    stack.write_text("version: 1\nlayers: [{name: project, dir: .}]\n")
    dot.call("env.up", stack=str(stack))
    dot.call("env.down", stack=str(stack))  # it is the older one, and the inner one
    dot.up()
    dot.call("env.up", stack=str(stack))
    dot.stop()
    run("umount", inner / ".envstack/merged")
    run("umount", dot.project)
    dot.start()
    assert [row["state"] for row in dot.environments()] == ["up", "up"]
    dot.call("env.down", stack=str(stack), purge=True)


@pytest.mark.parametrize("first", ["up", "down"])
def test_what_is_counted_while_it_goes_up_or_down_is_counted_right(
    dot: Engine, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Whatever is mounted when counting begins, it is not what is mounted when trees are read."""
    turns = ["down", "up"] if first == "down" else ["down"]

    def turn() -> None:
        if turns:
            dot.call(f"env.{turns.pop(0)}", stack=str(dot.stack))

    def diff_after_turn(*what: Any) -> object:
        turn()
        return diff(*what)

    dot.up()
    dot.write("new")
    monkeypatch.setattr(history, "diff", diff_after_turn)
    if first == "down":
        dot.at[Step.COUNT] = lambda: turn() if len(turns) == 2 else None
    made = dot.checkpoint()["id"]
    dot.settle()
    dot.up()
    assert not turns
    assert dot.row(made)["changes"] == {"added": 1, "modified": 0, "deleted": 0}


def test_the_projects_disk_is_held_only_while_it_is_up(
    make_engine: Make, ground: Ground, run: Run
) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "no space")

    disk = ground.fresh("t")
    disk.mkdir()
    run("mount", "-t", "tmpfs", "disk", disk)
    (disk / "p").mkdir()
    engine = furnish(make_engine(mount=".", project=disk / "p"))
    engine.at[Step.ATTACH] = fail
    with pytest.raises(OSError, match="no space"):
        engine.up()
    del engine.at[Step.ATTACH]
    run("umount", disk)
    run("mount", "-t", "tmpfs", "-o", "nosuid", "disk", disk)
    (disk / "p").mkdir()
    furnish(engine)
    engine.up()
    engine.write("new")
    engine.checkpoint()
    assert os.statvfs(engine.project).f_flag & os.ST_NOSUID
    engine.down(purge=True)
    engine.settle()
    run("umount", disk)
    disk.rmdir()


def test_what_changes_below_is_noticed_and_laid_anew(dot: Engine) -> None:
    below = os.open(dot.project, os.O_PATH | os.O_DIRECTORY)
    try:
        dot.up()
        assert (dot.project / "known").read_text() == "known\n"
        dot.settle()
        fresh = os.open("fresh", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=below)
        os.write(fresh, b"changed below\n")
        os.close(fresh)
        os.rename("fresh", "known", src_dir_fd=below, dst_dir_fd=below)
        rows = dot.call("env.status", stack=str(dot.stack), drift=True)["drift"]
        assert [(row["reason"], row["paths"]) for row in rows] == [("changed", [{"path": "known"}])]
        assert dot.relay()["drift"] == []
        assert (dot.project / "known").read_text() == "changed below\n"
    finally:
        os.close(below)
