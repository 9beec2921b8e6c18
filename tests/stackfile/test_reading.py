"""A stack file without faults becomes a model; one that cannot be read says why."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from envstack.errors import EnvstackError, NotFound, StackFileError, UsageError
from envstack.stackfile import ArchiveLayer, DirLayer, load, parse

if TYPE_CHECKING:
    from pathlib import Path

FULL = """\
version: 1
name: web
mount: out/merged
layers:
  - {name: project, dir: .}
  - {name: tools, dir: /opt, copy: true}
  - name: fixtures
    dir: ../data
    at: tests//data/
env: {KEY: value, PORT: "8080", EMPTY: "", ON: "on"}
watch: {ignore: ["*.pyc", .git/]}
"""


def write(directory: Path, text: str) -> bytes:
    path = directory / "envstack.yaml"
    path.write_text(text)
    return os.fsencode(path)


def test_every_value_arrives_with_absolute_paths() -> None:
    stack = parse(FULL.encode(), b"/nowhere/web/envstack.yaml")
    assert (stack.version, stack.name) == (1, "web")
    assert (stack.path, stack.project) == (b"/nowhere/web/envstack.yaml", b"/nowhere/web")
    assert stack.mount == b"/nowhere/web/out/merged"
    assert stack.layers == (
        DirLayer("project", b"/nowhere/web", b".", copy=False),
        DirLayer("tools", b"/opt", b".", copy=True),
        DirLayer("fixtures", b"/nowhere/data", b"tests/data", copy=False),
    )
    assert [layer.by_reference for layer in stack.layers] == [True, False, False]
    assert stack.env == {"KEY": "value", "PORT": "8080", "EMPTY": "", "ON": "on"}
    assert stack.ignore == ("*.pyc", ".git/")


def test_name_and_mount_have_defaults() -> None:
    stack = parse(b"version: 1\nlayers: [{name: a, dir: .}]", b"/nowhere/web/envstack.yaml")
    assert (stack.name, stack.mount) == ("web", b"/nowhere/web/.envstack/merged")


@pytest.mark.parametrize(
    ("project", "name"),
    [(b"/", "root"), (b"/a\nb", "a\ufffdb"), (b"/\xff", "\ufffd"), (b"/p: {", "p: {")],
)
def test_the_default_name_is_printable_whatever_the_directory(project: bytes, name: str) -> None:
    path = os.path.join(project, b"envstack.yaml")
    assert parse(b"version: 1\nlayers: [{name: a, dir: .}]", path).name == name


def test_a_project_whose_path_is_not_utf_8_keeps_its_bytes() -> None:
    path = b"/nowhere/\xff:,\\/envstack.yaml"
    stack = parse(b"version: 1\nlayers: [{name: a, dir: sub}]", path)
    assert stack.layers == (DirLayer("a", b"/nowhere/\xff:,\\/sub", b".", copy=False),)


def test_loading_follows_a_symbolic_link_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = write(tmp_path / "real", "version: 1\nlayers: [{name: a, dir: .}]")
    (tmp_path / "link.yaml").symlink_to("real/envstack.yaml")
    stack = load(os.fsencode(tmp_path / "link.yaml"))
    assert stack.path == os.path.realpath(path)
    real = os.path.realpath(tmp_path / "real").encode()
    assert stack.layers == (DirLayer("a", real, b".", copy=False),)


def test_an_archive_is_a_path_or_an_address(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"")
    (tmp_path / "link.tar").symlink_to("real")
    digest = "a" * 64
    address = "HTTPS://host.example/a%20b.tar?x=1"
    path = write(
        tmp_path,
        f"""version: 1
layers:
  - {{name: a, archive: link.tar, at: b/./c/, strip: 2}}
  - {{name: b, archive: gone.zip, sha256: {digest}}}
  - {{name: c, archive: '{address}', sha256: {digest}}}
""",
    )
    project = os.path.realpath(tmp_path).encode()
    a, b, c = load(path).layers
    assert a == ArchiveLayer("a", project + b"/real", "", b"b/c", 2)
    assert b == ArchiveLayer("b", project + b"/gone.zip", digest, b".", 0)
    assert c == ArchiveLayer("c", address.encode(), digest, b".", 0)
    assert isinstance(a, ArchiveLayer)
    assert isinstance(c, ArchiveLayer)
    assert (a.is_address, c.is_address) == (False, True)


@pytest.mark.parametrize(
    ("archive", "said"),
    [("gone.tar", "there is no such archive"), (".", "this is not a file"), ("fifo", "not a file")],
)
def test_an_archive_of_no_known_digest_must_be_there(
    tmp_path: Path, archive: str, said: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = write(tmp_path, f"version: 1\nlayers:\n  - {{name: a, archive: {archive}}}\n")
    with pytest.raises(StackFileError, match=f"3:24: .*{said}: {tmp_path}"):
        load(path)


def test_the_mount_is_canonical_up_to_its_last_component(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "m").symlink_to("/nowhere")
    (tmp_path / "link").symlink_to("real")
    path = write(tmp_path, "version: 1\nmount: link/m/\nlayers: [{name: a, dir: .}]")
    assert load(path).mount == os.path.realpath(tmp_path / "real").encode() + b"/m"


def test_a_byte_order_mark_and_a_directive_are_no_faults() -> None:
    text = b"\xef\xbb\xbf%YAML 1.1\n---\nversion: 1\nlayers: [{name: a, dir: .}]\n...\n"
    assert parse(text, b"/nowhere/envstack.yaml").layers[0].name == "a"


def test_an_alias_stands_for_what_it_names() -> None:
    text = b"version: 1\nlayers: [{name: &n a, dir: .}]\nenv: {A: &v x, B: *v, C: *n}\n"
    assert parse(text, b"/nowhere/envstack.yaml").env == {"A": "x", "B": "x", "C": "a"}


def test_no_file_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for missing in (b"absent", b"file/absent", b"nul\0"):
        with pytest.raises(NotFound):
            load(os.path.join(os.fsencode(tmp_path), missing))


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, "/dev/zero"):
        with pytest.raises(UsageError, match="is not a regular file"):
            load(os.fsencode(path))


def test_a_file_that_cannot_be_opened_is_no_fault_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(EnvstackError, match="cannot be read") as caught:
        load(os.fsencode(tmp_path / "loop"))
    assert caught.value.exit_code == 1


def test_pydantic_is_imported_by_reading_alone() -> None:
    code = (
        "import sys, envstack.stackfile as room, envstack.stackfile.template\n"
        "room.differences\n"
        "assert 'pydantic' not in sys.modules\n"
        "room.load\n"
        "assert 'pydantic' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
