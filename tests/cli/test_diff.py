"""`diff` in its forms, with a daemon that answers what it is told, and with the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from envstack.errors import NotFound
from tests.cli.harness import IN_ASCII, MODULE, WITHIN, interrupt
from tests.support import needs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.harness import Cli, FakeDaemon

Json = dict[str, Any]


@pytest.fixture
def sides(daemon: FakeDaemon, tmp_path: Path) -> tuple[Path, Path]:
    """Two directories that the daemon names as the two sides; `compare` says what differs."""
    both = tmp_path / "old", tmp_path / "new"
    for side in both:
        side.mkdir()
    return both


def compare(daemon: FakeDaemon, sides: tuple[Path, Path]) -> None:
    """Let the daemon answer with what lies in the two directories."""
    old, new = ({path.name for path in side.iterdir()} for side in sides)
    rows = []
    for name in sorted(old | new):
        change = "modified" if name in old & new else "added" if name in new else "deleted"
        row = {"path": name, "change": change, "kind": "file"}
        rows.append({**row, "old": 0 if name in old else None, "new": 1 if name in new else None})
    daemon.answers["env.compare"] = {"trees": list(map(str, sides)), "changes": rows}


def test_name_only_is_a_path_a_line(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.diff"] = [
        {"path": "a b", "change": "added", "kind": "file"},
        {"path": "x\ny", "change": "deleted", "kind": "dir"},
    ]
    assert cli("diff", "--name-only").out == 'a b\n"x\\ny"\n'
    assert cli("diff", "--name-only", "--json").document == daemon.answers["env.diff"]


def test_stat_is_a_histogram_with_totals(
    cli: Cli, daemon: FakeDaemon, sides: tuple[Path, Path]
) -> None:
    old, new = sides
    (old / "text").write_text("".join(f"{n}\n" for n in range(500)))
    (new / "text").write_text("".join(f"{n}\n" for n in range(400)))
    (new / "binary").write_bytes(b"\0" * 10)
    (old / "moved").write_text("same\n")
    (new / "moved").write_text("same\n")
    (new / "short").write_text("1\n2")
    compare(daemon, sides)
    lines = cli("diff", "--stat").out.splitlines()
    assert lines[0] == " binary | Bin 0 -> 10 bytes"
    assert lines[1] == " moved  |   0"
    assert lines[2] == " short  |   2 +"
    assert lines[3].startswith(" text   | 100 ---")
    assert len(lines[3]) <= 80
    assert lines[4:] == [" 4 files changed, 2 insertions(+), 100 deletions(-)"]
    rows = cli("diff", "--stat", "--json").document
    assert [(row["added_lines"], row["removed_lines"]) for row in rows] == [
        (None, None),
        (0, 0),
        (2, 0),
        (0, 100),
    ]
    assert all("old" not in row for row in rows)


def test_stat_keeps_within_a_terminal(
    cli: Cli, daemon: FakeDaemon, sides: tuple[Path, Path]
) -> None:
    name, binary = "x" * 200 + "name", "y" * 200 + "binary"
    (sides[1] / name).write_text("line\n" * 1000)
    (sides[1] / binary).write_bytes(b"\0" * 100_000)
    compare(daemon, sides)
    narrow = ("sh", "-c", 'stty cols 60 && exec "$@"', "sh", *MODULE)
    cli.environ["NO_COLOR"] = "1"
    with cli.on_terminal("diff", "--stat", command=narrow) as terminal:
        lines = terminal.finish().out.splitlines()
    assert [len(line) for line in lines[:2]] == [60, 60]
    assert lines[0].startswith(" …x")
    assert "xname | 1000 ++" in lines[0]
    assert lines[1].endswith("ybinary |  Bin 0 -> 100000 bytes")
    assert name in cli("diff", "--stat").out


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("--name-only", "\\xe9\n"),
        ("--stat", " \\xe9 | 1 +\n"),
        ("--patch", "+++ b/é\n"),
        ("--json", '"path":"\\u00e9"'),
    ],
)
def test_a_name_that_the_encoding_has_not_is_found_all_the_same(
    cli: Cli, daemon: FakeDaemon, sides: tuple[Path, Path], form: str, shown: str
) -> None:
    (sides[1] / "é").write_text("1\n")
    compare(daemon, sides)
    daemon.answers["env.diff"] = [{"path": "é", "change": "added", "kind": "file"}]
    cli.environ |= IN_ASCII
    done = cli("diff", form)
    assert (done.code, done.err) == (0, "")
    assert shown in done.out


def test_stat_of_nothing_is_nothing(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("diff", "--stat").out == " 0 files changed\n"
    assert cli("diff", "--patch").out == ""
    assert cli("diff", "--patch", "--json").document == []


def test_a_patch_is_exact_bytes_where_a_program_reads(
    cli: Cli, daemon: FakeDaemon, sides: tuple[Path, Path]
) -> None:
    (sides[1] / "f").write_bytes(b"\xff\x1b[2J\n")
    compare(daemon, sides)
    with cli.start("diff", "-p", stdout=subprocess.PIPE) as run:
        out, _ = run.communicate(timeout=WITHIN)
    assert out.endswith(b"@@ -0,0 +1 @@\n+\xff\x1b[2J\n")
    (row,) = cli("diff", "-p", "--json").document
    assert row["patch"].endswith("+\ufffd\x1b[2J\n")
    assert row["patch_b64"]


def test_how_many_files_a_patch_cannot_carry_is_told(
    cli: Cli, daemon: FakeDaemon, sides: tuple[Path, Path]
) -> None:
    (sides[1] / "text").write_text("1\n")
    compare(daemon, sides)
    assert cli("diff", "--patch").err == ""
    (sides[1] / "large").write_text("1\n" * (1 << 20))
    (sides[0] / "zeros").write_bytes(b"\0")
    compare(daemon, sides)
    done = cli("diff", "--patch")
    assert (done.code, done.err) == (0, "not in the patch: 2 files, binary or over 1 MiB\n")
    assert len(cli("diff", "--patch", "--json").document) == 3


def test_a_patch_harms_no_terminal(cli: Cli, daemon: FakeDaemon, sides: tuple[Path, Path]) -> None:
    (sides[1] / "f").write_bytes(b"\ta\xff\x1b[2J\r\n")
    compare(daemon, sides)
    with cli.on_terminal("diff", "--patch") as terminal:
        assert "\x1b[32m+\ta\\xff\\e[2J\\r\x1b[0m\n" in terminal.finish().out


@pytest.mark.parametrize("form", ["--patch", "--stat", "--name-only"])
def test_forms_exclude_each_other(cli: Cli, daemon: FakeDaemon, form: str) -> None:
    others = {"--patch", "--stat", "--name-only"} - {form}
    for other in others:
        assert cli("diff", form, other).code == 2


@pytest.mark.parametrize(
    ("arguments", "a", "b", "paths"),
    [
        (("--", "x"), None, None, ["x"]),
        (("v1", "--", "x", "--stat"), "v1", None, ["x", "--stat"]),
        (("v1", "@", "--", "./x/../y"), "v1", "@", ["y"]),
        (("v1", "--"), "v1", None, []),
    ],
)
def test_paths_stand_behind_two_dashes(
    cli: Cli,
    daemon: FakeDaemon,
    arguments: tuple[str, ...],
    a: str | None,
    b: str | None,
    paths: list[str],
) -> None:
    assert cli("diff", *arguments).code == 0
    asked = daemon.calls[-1][1]
    assert (asked["a"], asked["b"], asked["paths"]) == (a, b, paths)


def test_a_path_that_is_taken_for_a_revision_is_explained(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["env.diff"] = NotFound("no checkpoint is called 'envstack.yaml'", "envstack log")
    assert cli("diff", "envstack.yaml", "--json").error == {
        "kind": "not-found",
        "message": "no checkpoint is called 'envstack.yaml'",
        "hint": "if the path is meant: envstack diff -- envstack.yaml",
    }
    assert cli("diff", "v1", "--json").error["hint"] == "envstack log"


def test_a_reader_that_leaves_early_ends_a_patch_in_silence(
    cli: Cli, daemon: FakeDaemon, sides: tuple[Path, Path]
) -> None:
    for number in range(300):
        (sides[1] / f"{number:03}").write_text("line\n" * 2000)
    compare(daemon, sides)
    with cli.start("diff", "-p", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.read(10) == b"diff --git"
        run.stdout.close()
        assert run.stderr.read() == b""
        assert run.wait(WITHIN) == 128 + signal.SIGPIPE


def test_ctrl_c_ends_a_patch_at_once(
    cli: Cli, daemon: FakeDaemon, sides: tuple[Path, Path]
) -> None:
    for number in range(300):
        (sides[1] / f"{number:03}").write_text("line\n" * 2000)
    compare(daemon, sides)
    with cli.start("diff", "-p", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.read(10)
        interrupt(run)  # while it waits for its reader
        _, err = run.communicate(timeout=WITHIN)
    assert (run.returncode, err) == (130, b"error: interrupted\n")


def test_a_tree_that_was_deleted_meanwhile_is_told(
    cli: Cli, daemon: FakeDaemon, sides: tuple[Path, Path]
) -> None:
    (sides[1] / "f").touch()
    compare(daemon, sides)
    (sides[1] / "f").unlink()
    sides[1].rmdir()
    assert cli("diff", "--patch", "--json").code == 4


@pytest.fixture
def session(cli: Cli) -> Iterator[Cli]:
    """An environment that is up, with a few files; the daemon ends with the test."""
    for name in ("kept", "doomed", "dir/inner"):
        path = cli.cwd / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{name}\nas it was\n")
    assert cli("init").code == 0
    assert cli("up").code == 0
    yield cli
    cli("down", "--purge", "--yes")
    assert cli("daemon", "stop").code == 0


@pytest.mark.kernel
def test_paths_are_relative_to_where_one_stands_in_the_merged_tree(session: Cli) -> None:
    project, merged = session.cwd, session.cwd / ".envstack" / "merged"
    (merged / "dir" / "inner").write_text("changed\n")
    (merged / "kept").write_text("changed\n")
    assert session("diff", "--name-only", "--", "dir").out == "dir/inner\n"
    session.cwd = merged / "dir"
    assert session("diff", "--name-only", "--", "inner").out == "dir/inner\n"
    assert session("diff", "--name-only", "--", "../kept").out == "kept\n"
    assert session("diff", "--name-only", "--", ".").out == "dir/inner\n"
    assert session("diff", "--name-only", "--", str(merged / "kept")).out == "kept\n"
    assert session("diff", "--json", "--", "../../kept").error["kind"] == "usage"
    nothing = session("diff", "--json", "--", "kept")
    assert (nothing.code, "dir/kept" in nothing.error["message"]) == (3, True)
    session.cwd = project


@pytest.mark.kernel
def test_git_apply_repeats_what_was_done(session: Cli, tmp_path: Path) -> None:
    git = needs.program("git")
    merged, copy = session.cwd / ".envstack" / "merged", tmp_path / "copy"
    subprocess.run(["cp", "-a", merged, copy], check=True)
    (merged / "kept").write_text("kept\nas it is\n")
    (merged / "doomed").unlink()
    (merged / "dir" / "inner").chmod(0o755)
    os.symlink("kept", merged / "link")
    (merged / "new").write_bytes(b"no newline")
    with session.start("diff", "--patch", stdout=subprocess.PIPE) as run:
        patch, _ = run.communicate(timeout=WITHIN)
    environ = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    subprocess.run([git, "apply", "-"], cwd=copy, input=patch, check=True, env=environ)
    subprocess.run(["diff", "-r", "--no-dereference", merged, copy], check=True)
    assert (copy / "dir" / "inner").stat().st_mode & 0o111


@pytest.mark.kernel
def test_a_large_binary_file_is_named_and_not_read(session: Cli) -> None:
    merged = session.cwd / ".envstack" / "merged"
    with open(merged / "huge", "wb") as file:
        file.truncate(1 << 40)
    assert "huge | Bin 0 -> 1099511627776 bytes" in session("diff", "--stat").out
    assert "Binary files /dev/null and b/huge differ" in session("diff", "--patch").out
    rows = json.loads(session("diff", "--patch", "--json").out)
    assert [row["path"] for row in rows] == ["huge"]
