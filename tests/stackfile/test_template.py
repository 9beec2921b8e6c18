"""The stack files that envstack itself hands out have no faults."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envstack.stackfile import DirLayer, load, parse
from envstack.stackfile.template import default_name, template

HELLO = Path(__file__).parents[2] / "stacks" / "hello"


@given(st.binary(min_size=1).filter(lambda name: b"/" not in name and b"\0" not in name))
def test_a_first_stack_file_keeps_the_name_of_any_project(directory: bytes) -> None:
    name = default_name(b"/nowhere/" + directory)
    stack = parse(template(name).encode(), b"/elsewhere/envstack.yaml")
    assert stack.name == name


@pytest.mark.parametrize(
    "name", ["on", "123", "~", "a: b", "{x}", 'q"', "#", "{name}", "\\", "日本"]
)
def test_a_name_that_yaml_would_read_otherwise_is_kept(name: str) -> None:
    assert parse(template(name).encode(), b"/elsewhere/envstack.yaml").name == name


def test_a_first_stack_file_loads_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "envstack.yaml"
    path.write_text(template("web"))
    stack = load(os.fsencode(path))
    project = os.path.realpath(tmp_path).encode()
    assert stack.layers == (DirLayer("project", project, b".", copy=False),)
    assert stack.mount == project + b"/.envstack/merged"


def test_what_a_first_stack_file_has_in_comments_is_valid_too() -> None:
    commented = ("  # - ", "  #   ", "# env", "#   PORT")
    lines = [
        line.replace("# ", "", 1) if line.startswith(commented) else line
        for line in template("web").splitlines()
    ]
    stack = parse("\n".join(lines).encode(), b"/elsewhere/envstack.yaml")
    assert [layer.name for layer in stack.layers] == ["project", "tools", "fixtures", "sdk", "venv"]
    assert stack.env == {"PORT": "8080"}


def test_the_example_loads_and_its_layers_cover_one_another(tmp_path: Path) -> None:
    stack = load(os.fsencode(HELLO / "envstack.yaml"))
    assert [layer.name for layer in stack.layers] == ["base", "team", "mine"]
    merged: dict[str, Path] = {}
    for layer in stack.layers:
        assert isinstance(layer, DirLayer)
        root = Path(os.fsdecode(layer.dir))
        merged |= {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()}
    assert set(merged) == {
        "greet.sh",
        "greeting.txt",
        "whom.txt",
        "docs/usage.txt",
        "docs/team.txt",
    }
    for name, path in merged.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(path.read_bytes())
    said = subprocess.run(["sh", tmp_path / "greet.sh"], check=True, capture_output=True, text=True)
    assert said.stdout == "Good morning, world!\n"
