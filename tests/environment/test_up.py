"""`up` brings up what the stack file says, says why not, and leaves the project as it was."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from envstack.environment.steps import Step
from envstack.overlay import mount as overlay
from tests.environment.harness import Engine, mounts_at, nothing_changes, refused
from tests.support import trees
from tests.support.edits import mkdir, remove, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.ground import Ground

    Make = Callable[..., Engine]
    Run = Callable[..., None]

pytestmark = pytest.mark.kernel


def below(engine: Engine) -> trees.Tree:
    """Return the project without what `up` makes in it."""
    tree = trees.snapshot(engine.project)
    return {path: entry for path, entry in tree.items() if not path.startswith(b".envstack/")}


def test_up_answers_with_what_is_there_and_is_idempotent(engine: Engine) -> None:
    with nothing_changes(engine):
        answer = engine.up()
    assert answer == {**engine.status(), "outdated": [], "saved": None, "left": None}
    assert answer["name"] == "sandbox"
    assert answer["project"] == str(engine.project)
    assert answer["mount"] == str(engine.merged)
    assert (answer["state"], answer["head"], answer["reason"]) == ("up", None, None)
    assert [(layer["name"], layer["kind"]) for layer in answer["layers"]] == [("base", "dir")]
    assert mounts_at(engine.merged) == [f"envstack:{answer['upper']}"]


def test_what_is_not_sealed_yet_is_told(engine: Engine) -> None:
    assert engine.up()["dirty"] is False
    engine.write("file")
    assert engine.status()["dirty"] is True
    engine.checkpoint()
    assert engine.status()["dirty"] is False


def test_later_layers_cover_earlier_ones_and_are_listed_bottom_first(make_engine: Make) -> None:
    engine = make_engine(
        one=[write("a", "1"), write("b", "1"), write("c", "1"), mkdir("d"), write("d/1")],
        two=[write("b", "2"), write("c", "2"), mkdir("d", 0o711), write("d/2")],
        three=[write("c", "3"), mkdir("e")],
    )
    names = [layer["name"] for layer in engine.up()["layers"]]
    assert names == ["one", "two", "three"]
    assert [(engine.merged / name).read_text() for name in "abc"] == ["1", "2", "3"]
    assert sorted(os.listdir(engine.merged / "d")) == ["1", "2"]
    assert (engine.merged / "d").stat().st_mode & 0o777 == 0o711


def test_layers_are_copied_where_the_stack_file_says_so(make_engine: Make) -> None:
    engine = make_engine(
        one=[write("kept", "1"), mkdir("data"), write("data/old")],
        two=[mkdir("sub"), write("sub/file", "2")],
        three=[write("file", "3")],
    )
    engine.declare(
        {
            "layers": [
                {"name": "one", "dir": "one"},
                {"name": "two", "dir": "two", "at": "data/deep"},
                {"name": "three", "dir": "three", "copy": True},
            ]
        }
    )
    kinds = [layer["kind"] for layer in engine.up()["layers"]]
    assert kinds == ["dir", "copy", "copy"]
    assert sorted(os.listdir(engine.merged)) == ["data", "file", "kept"]
    assert sorted(os.listdir(engine.merged / "data")) == ["deep", "old"]
    assert (engine.merged / "data/deep/sub/file").read_text() == "2"
    (engine.project / "two/sub/file").write_text("changed below")
    (engine.project / "three/file").unlink()
    assert (engine.merged / "data/deep/sub/file").read_text() == "2"
    assert (engine.merged / "file").read_text() == "3"
    assert (engine.home / "layers").stat().st_mode & 0o777 == 0o700
    assert engine.home.stat().st_mode & 0o777 == 0o700


def test_the_project_below_never_changes_but_for_the_mount_point(make_engine: Make) -> None:
    engine = make_engine(base=[write("known", "known\n"), mkdir("dir"), write("dir/inner")])
    before = below(engine)
    engine.up()
    write("known", "changed")(engine.merged)
    remove("dir")(engine.merged)
    os.chmod(engine.merged, 0o700)
    engine.checkpoint()
    os.mkdir(engine.merged / "dir")
    engine.rollback("base")
    remove("known")(engine.merged)
    engine.down()
    engine.up()
    after = below(engine)
    assert after.pop(b".envstack").kind == "dir"
    assert after == before
    private = engine.project / ".envstack"
    assert sorted(os.listdir(private)) == [".gitignore", "merged"]
    assert (private / ".gitignore").read_text() == "*\n"


def test_down_keeps_everything_and_up_brings_it_back(engine: Engine) -> None:
    engine.write("sealed")
    made = engine.checkpoint("kept")["id"]
    engine.write("unsealed")
    tree = trees.snapshot(engine.merged)
    answer = engine.down()
    assert (answer["state"], answer["head"]["id"]) == ("down", made)
    assert mounts_at(engine.merged) == []
    assert os.listdir(engine.merged) == []
    assert engine.down()["state"] == "down", "once more is no error"
    with refused(4, "not-up"):
        engine.log()
    assert engine.up()["head"]["id"] == made
    assert [row["id"] for row in engine.log()] == [made]
    assert trees.snapshot(engine.merged) == tree
    assert engine.rollback("base")["saved"]


def test_down_and_up_in_close_succession_meet_no_work_of_what_went_before(
    engine: Engine,
) -> None:
    """What is deleted and sealed in the background holds neither the mount nor its upper."""
    for number in range(25):
        engine.write("file", str(number))
        engine.checkpoint()
        engine.write("file", "discarded")
        engine.rollback("base", discard=True)
        engine.down()
        engine.up()
    assert len(engine.log()) == 25


def test_purge_leaves_project_and_store_clean(make_engine: Make) -> None:
    engine = make_engine(base=[write("known")], copied=[write("c")])
    engine.declare(
        {
            "layers": [
                {"name": "base", "dir": "base"},
                {"name": "copied", "dir": "copied", "copy": True},
            ]
        }
    )
    before = trees.snapshot(engine.project)
    engine.up()
    for number in range(3):
        engine.write("file", str(number))
        engine.checkpoint()
    engine.write("file", "unsealed")
    engine.settle()
    engine.down(purge=True)
    assert trees.snapshot(engine.project) == before
    engine.settle()
    assert os.listdir(engine.home / "layers") == []
    assert os.listdir(engine.home / "staging") == []
    assert engine.context.store.db.layers() == []
    assert engine.environments() == []
    with refused(4, "not-up"):
        engine.status()
    engine.up()
    assert engine.log() == []
    assert not (engine.merged / "file").exists()


@pytest.mark.parametrize("change", ["name", "layers"])
def test_a_stack_file_that_changed_while_it_is_up_is_refused_with_the_difference(
    engine: Engine, change: str
) -> None:
    (engine.project / "more").mkdir()
    layers = [{"name": "base", "dir": "base"}]
    more = {"name": "more", "dir": "more"}
    stack: dict[str, Any] = {"layers": layers}
    stack |= {"name": "renamed"} if change == "name" else {"layers": [*layers, more]}
    engine.declare(stack)
    with nothing_changes(engine), refused(4) as refusal:
        engine.up()
    assert ("renamed" if change == "name" else "'more' added") in refusal.message
    engine.declare({"layers": layers})
    assert engine.up()["state"] == "up"


def test_comments_and_spelling_are_no_change(engine: Engine) -> None:
    engine.stack.write_text(
        "# a comment\nlayers:\n- {dir: ./base, name: base}\nname: sandbox\nversion: 1\n"
    )
    assert engine.up()["state"] == "up"


@pytest.fixture
def redeclared(engine: Engine) -> Engine:
    """The environment is up with another layer, in which nothing was written before."""
    engine.down()
    other = engine.project / "other"
    other.mkdir()
    other.chmod(0o711)
    (other / "new").write_text("new")
    engine.declare({"layers": [{"name": "other", "dir": "other", "copy": True}]})
    engine.up()
    return engine


def test_layers_may_change_while_nothing_stands_on_them(redeclared: Engine) -> None:
    assert os.listdir(redeclared.merged) == ["new"]
    assert [layer["name"] for layer in redeclared.status()["layers"]] == ["other"]


def test_a_layer_that_is_found_again_has_the_name_that_it_has_now(redeclared: Engine) -> None:
    redeclared.down()
    renamed = {"name": "renamed", "dir": "other", "copy": True}
    redeclared.declare({"layers": [renamed]})
    assert [layer["name"] for layer in redeclared.up()["layers"]] == ["renamed"]


def test_the_root_is_that_of_the_layers_as_they_are_now(redeclared: Engine) -> None:
    assert redeclared.merged.stat().st_mode & 0o777 == 0o711
    assert redeclared.diff() == []


def test_a_copy_that_no_environment_needs_any_more_is_deleted(redeclared: Engine) -> None:
    redeclared.down()
    redeclared.declare({"layers": [{"name": "base", "dir": "base"}]})
    redeclared.up()
    redeclared.settle()
    kinds = [layer.kind for layer in redeclared.context.store.db.layers()]
    assert sorted(kinds) == ["dir", "upper", "upper"]
    assert len(list((redeclared.home / "layers").iterdir())) == 2, "the upper and the spare"


@pytest.mark.parametrize("what", ["a checkpoint", "unsealed changes"])
def test_layers_may_not_change_under_a_history(engine: Engine, what: str) -> None:
    engine.write("file")
    if what == "a checkpoint":
        engine.checkpoint()
    engine.down()
    (engine.project / "more").mkdir()
    engine.declare({"layers": [{"name": "more", "dir": "more"}]})
    with refused(4) as refusal:
        engine.up()
    assert "history" in refusal.message
    assert "'more' added" in refusal.message
    assert mounts_at(engine.merged) == []
    engine.declare({"layers": [{"name": "base", "dir": "base"}]})
    engine.up()
    assert (engine.merged / "file").exists()


def test_the_mount_point_may_move_while_it_is_down(engine: Engine) -> None:
    engine.write("file")
    engine.checkpoint()
    engine.down()
    engine.declare({"mount": "elsewhere", "layers": [{"name": "base", "dir": "base"}]})
    answer = engine.up()
    assert answer["mount"] == str(engine.project / "elsewhere")
    assert (engine.project / "elsewhere/file").exists()
    assert mounts_at(engine.merged) == []


class TestMountPoint:
    """What cannot be a mount point is refused with the reason, and stays as it is."""

    @pytest.fixture
    def fresh(self, make_engine: Make) -> Engine:
        return make_engine(base=[write("known")])

    def refuses(self, engine: Engine, reason: str) -> None:
        before = trees.snapshot(engine.project)
        with refused(4) as refusal:
            engine.up()
        assert reason in refusal.message
        assert trees.snapshot(engine.project) == before
        assert mounts_at(engine.merged) == []
        engine.settle()
        assert engine.environments() == []
        assert os.listdir(engine.home / "layers") == []

    def test_a_symbolic_link(self, fresh: Engine) -> None:
        fresh.merged.parent.mkdir()
        (fresh.project / "target").mkdir()
        fresh.merged.symlink_to("../target")
        self.refuses(fresh, "symbolic link")

    def test_a_dangling_symbolic_link(self, fresh: Engine) -> None:
        fresh.merged.parent.mkdir()
        fresh.merged.symlink_to("nowhere")
        self.refuses(fresh, "symbolic link")

    def test_a_directory_that_is_not_empty(self, fresh: Engine) -> None:
        fresh.merged.mkdir(parents=True)
        (fresh.merged / "some\nthing").write_text("precious")
        self.refuses(fresh, "not empty")

    def test_a_file(self, fresh: Engine) -> None:
        fresh.merged.parent.mkdir()
        fresh.merged.write_text("precious")
        self.refuses(fresh, "not a directory")

    def test_a_fifo(self, fresh: Engine) -> None:
        fresh.merged.parent.mkdir()
        os.mkfifo(fresh.merged)
        self.refuses(fresh, "not a directory")

    def test_something_below_a_file(self, fresh: Engine) -> None:
        fresh.merged.parent.write_text("precious")
        self.refuses(fresh, ".envstack is a file")

    @pytest.mark.parametrize("place", ["", "/inside", "/layers/x"])
    def test_inside_the_store(self, fresh: Engine, place: str) -> None:
        fresh.declare(
            {"mount": f"{fresh.home}{place}", "layers": [{"name": "base", "dir": "base"}]}
        )
        self.refuses(fresh, "the store")

    def test_above_the_store(self, make_engine: Make, project: Path) -> None:
        engine = make_engine(store=project / "m" / "store", base=[write("known")])
        engine.declare({"mount": "m", "layers": [{"name": "base", "dir": "base"}]})
        (project / "m").mkdir()
        with refused(4) as refusal:
            engine.up()
        assert "the store" in refusal.message

    def test_something_mounted_there(self, fresh: Engine, run: Run) -> None:
        fresh.merged.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "other", fresh.merged)
        try:
            with refused(4) as refusal:
                fresh.up()
            assert "tmpfs other" in refusal.message
            assert f"umount {fresh.merged}" in refusal.hint
            assert mounts_at(fresh.merged) == ["other"]
        finally:
            run("umount", fresh.merged)

    def test_what_is_mounted_outside_the_project_is_never_advised_to_be_taken_off(
        self, fresh: Engine
    ) -> None:
        fresh.declare({"mount": "/proc", "layers": [{"name": "base", "dir": "base"}]})
        with refused(4) as refusal:
            fresh.up()
        assert refusal.hint == "choose another `mount`"

    def test_the_tree_of_another_store(
        self, make_engine: Make, engine: Engine, directory: Callable[[], Path]
    ) -> None:
        other = make_engine(store=directory(), project=directory(), base=[])
        other.declare({"mount": str(engine.merged), "layers": [{"name": "base", "dir": "base"}]})
        with refused(4) as refusal:
            other.up()
        assert "ENVSTACK_HOME" in refusal.hint
        assert "umount" not in refusal.hint
        other.declare({"layers": [{"name": "base", "dir": "base"}]})


class TestTwoEnvironmentsOfOneMountPoint:
    """The second one is refused, whatever the first is doing."""

    def other(self, engine: Engine, mount: str) -> Path:
        """Write another stack file beside the first, and return its path."""
        path: Path = engine.project / "other.yaml"
        path.write_text(
            f"version: 1\nname: other\nmount: {mount}\nlayers: [{{name: base, dir: base}}]\n"
        )
        return path

    @pytest.mark.parametrize("state", ["up", "down"])
    def test_a_new_one(self, engine: Engine, state: str) -> None:
        if state == "down":
            engine.down()
        other = self.other(engine, ".envstack/merged")
        before = mounts_at(engine.merged)
        with refused(4) as refusal:
            engine.call("env.up", stack=str(other))
        assert "environment" in refusal.message + refusal.hint
        assert mounts_at(engine.merged) == before
        assert len(engine.environments()) == 1
        assert engine.up()["state"] == "up"

    def test_one_that_came_first_while_the_other_was_building(self, engine: Engine) -> None:
        engine.down(purge=True)
        other = self.other(engine, ".envstack/merged")

        def come_first() -> None:
            engine.at.clear()
            engine.call("env.up", stack=str(other))

        engine.at[Step.REGISTER] = come_first
        with refused(4) as refusal:
            engine.up()
        assert f"{engine.merged} is that of environment 'other' ({other})" in refusal.message
        assert refusal.hint == "choose another `mount` in one of the two stack files"

    def test_a_known_one_that_moves_there(self, engine: Engine) -> None:
        other = self.other(engine, "elsewhere")
        engine.call("env.up", stack=str(other))
        engine.call("env.down", stack=str(other))
        engine.down()
        self.other(engine, ".envstack/merged")
        with refused(4):
            engine.call("env.up", stack=str(other))
        assert mounts_at(engine.merged) == []
        self.other(engine, "elsewhere")
        assert engine.call("env.up", stack=str(other))["state"] == "up"
        assert engine.up()["state"] == "up"


def test_a_directory_that_overlayfs_cannot_take_is_named(make_engine: Make) -> None:
    engine = make_engine(base=[write("known")])
    layers = [{"name": "base", "dir": "base"}, {"name": "odd", "dir": "/proc"}]
    engine.declare({"layers": layers})
    with refused(5) as refusal:
        engine.up()
    assert "/proc" in refusal.message
    assert "base" not in refusal.message
    assert "ENVSTACK_HOME" not in refusal.hint
    assert mounts_at(engine.merged) == []


class TestDir:
    """A directory that cannot be a layer is a fault of the stack file, with its position."""

    @pytest.fixture
    def fresh(self, make_engine: Make) -> Engine:
        return make_engine(base=[mkdir("sub"), write("known")])

    def refuses(self, engine: Engine, line: str, *words: str) -> None:
        engine.stack.write_text(
            "version: 1\nlayers:\n  - {name: base, dir: base}\n  - {name: other, " + line + "}\n"
        )
        before = trees.snapshot(engine.project)
        with refused(2, "stack-file") as refusal:
            engine.up()
        column = 4 + len("- {name: other, dir: ") - 1
        assert f"envstack.yaml:4:{column}: " in refusal.message
        for word in words:
            assert word in refusal.message
        assert trees.snapshot(engine.project) == before
        assert engine.environments() == []

    def test_one_that_is_missing(self, fresh: Engine) -> None:
        self.refuses(fresh, "dir: missing", "no such directory")

    def test_a_file(self, fresh: Engine) -> None:
        self.refuses(fresh, "dir: envstack.yaml", "not a directory")

    def test_one_inside_another_layer(self, fresh: Engine) -> None:
        self.refuses(fresh, "dir: base/sub", "overlaps")

    def test_one_that_holds_another_layer(self, fresh: Engine) -> None:
        self.refuses(fresh, "dir: .", "overlaps")

    def test_the_same_directory_twice(self, fresh: Engine) -> None:
        self.refuses(fresh, "dir: base", "overlaps")

    def test_one_that_contains_the_store(self, make_engine: Make, ground: Ground) -> None:
        outer = ground.fresh("s")
        outer.mkdir()
        engine = make_engine(store=outer / "home", base=[write("known")])
        self.refuses(engine, f"dir: {outer}", "the store")
        engine.close()
        trees.remove(outer)

    def test_one_inside_the_store(self, fresh: Engine) -> None:
        self.refuses(fresh, f"dir: {fresh.home}/layers", "the store")


def test_a_dir_that_went_missing_while_it_was_down_is_said(engine: Engine) -> None:
    engine.write("file")
    engine.down()
    os.rename(engine.project / "base", engine.project / "away")
    with refused(2) as refusal:
        engine.up()
    assert "no such directory" in refusal.message
    os.rename(engine.project / "away", engine.project / "base")
    engine.up()
    assert (engine.merged / "file").exists()


def test_a_mount_that_cannot_be_kept_is_taken_off_again(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clone(_mount: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    engine = make_engine(base=[write("known")])
    engine.start()
    with monkeypatch.context() as patched:
        patched.setattr(overlay, "clone", clone)
        with pytest.raises(OSError, match="open files"):
            engine.up()
    assert mounts_at(engine.merged) == []
    assert engine.environments() == []
    engine.up()


def test_no_stack_file_is_no_such_thing(engine: Engine) -> None:
    for method in ("up", "status", "checkpoint"):
        with refused(3 if method == "up" else 4):
            engine.call(f"env.{method}", stack=str(engine.project / "missing.yaml"))


FLAGS = {"nosuid": os.ST_NOSUID, "nodev": os.ST_NODEV, "noexec": os.ST_NOEXEC}


@pytest.mark.parametrize("flags", [[], ["nosuid"], ["nodev", "noexec"], ["nosuid", "noexec"]])
def test_flags_of_the_projects_file_system_carry_over_to_every_mount(
    make_engine: Make, ground: Ground, run: Run, flags: list[str]
) -> None:
    project = ground.fresh("t")
    project.mkdir()
    run("mount", "-t", "tmpfs", "-o", ",".join(["size=1m", *flags]), "none", project)
    try:
        engine = make_engine(project=project, base=[write("known")])
        for act in (engine.up, lambda: engine.write("file"), engine.checkpoint):
            act()
        for _ in range(2):
            found = os.statvfs(engine.merged).f_flag
            assert {name for name, flag in FLAGS.items() if found & flag} == set(flags)
            engine.rollback("base")
        engine.close()
    finally:
        run("umount", project)
        project.rmdir()


def test_an_environment_whose_project_was_deleted_can_be_purged(engine: Engine) -> None:
    engine.down()
    trees.remove(engine.project)
    engine.down(purge=True)
    assert engine.environments() == []


def test_what_up_makes_in_the_project_is_its_owners_and_open_to_all(engine: Engine) -> None:
    engine.down(purge=True)
    os.chown(engine.project, 1234, 1235)
    before = os.umask(0o077)
    try:
        engine.up()
    finally:
        os.umask(before)
    private = engine.project / ".envstack"
    found = {path.name: path.stat() for path in (private, private / ".gitignore")}
    assert {(status.st_uid, status.st_gid) for status in found.values()} == {(1234, 1235)}
    assert found[".envstack"].st_mode & 0o777 == 0o755
    assert found[".gitignore"].st_mode & 0o777 == 0o644


def test_a_layer_below_a_path_leaves_the_directories_on_the_way_as_they_look(
    make_engine: Make,
) -> None:
    engine = make_engine(base=[mkdir("data", 0o751), write("data/old")], two=[write("file")])
    os.chmod(engine.project / "base", 0o775)
    os.chown(engine.project / "base", 1234, 1235)
    engine.declare(
        {
            "layers": [
                {"name": "base", "dir": "base"},
                {"name": "two", "dir": "two", "at": "data/new/deep"},
            ]
        }
    )
    before = os.umask(0o077)
    try:
        engine.up()
    finally:
        os.umask(before)
    for name in (".", "data"):
        shown, covered = (engine.merged / name).stat(), (engine.project / "base" / name).stat()
        assert shown.st_mode == covered.st_mode, name
        assert (shown.st_uid, shown.st_gid) == (covered.st_uid, covered.st_gid), name
    assert (engine.merged / "data/new").stat().st_mode == engine.merged.stat().st_mode
    assert (engine.merged / "data/new/deep/file").is_file()
