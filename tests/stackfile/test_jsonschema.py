"""The JSON Schema: complete, and read by the real language server as envstack reads stack files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from envstack.errors import StackFileError
from envstack.stackfile import jsonschema, parse, rules, words
from envstack.stackfile.schema import NOT_YET
from envstack.stackfile.template import SCHEMA_FILE, template
from tests.stackfile.language_server import PACKAGE, LanguageServer
from tests.support import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

STACKS = Path(__file__).parents[2] / "stacks"
MODELINE = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
HEAD = f"{MODELINE}version: 1\n"

BASE = f"{HEAD}layers:\n  - {{name: base, dir: .}}\n"

GOOD = [
    template("web"),
    *(MODELINE + path.read_text() for path in sorted(STACKS.glob("*/envstack.yaml"))),
    f"{HEAD}layers:\n  - {{name: a, dir: ., at: b/c, copy: true}}\nenv: {{A: b}}\n",
    f"{HEAD}layers:\n  - {{name: a, archive: a.tar, sha256: {'a' * 64}, at: b, strip: 1}}\n",
    f"{HEAD}layers: [{{name: a, dir: .}}]\nwatch: {{ignore: ['*.pyc', .git/]}}\nmount: elsewhere\n",
    f"{HEAD}layers:\n  - {{name: a, dir: .}}\n  - {{name: b, run: make, inputs: [Makefile]}}\n",
]

FAULTY = [
    f"{HEAD}nam: x\nlayers:\n  - {{name: a, dir: .}}\n",
    f"{MODELINE}version: 2\nlayers:\n  - {{name: a, dir: .}}\n",
    f"{MODELINE}layers:\n  - {{name: a, dir: .}}\n",
    f"{HEAD}layers: []\n",
    f"{HEAD}layers: text\n",
    f"{HEAD}layers:\n  - name: a\n    dir: .\n    dri: x\n",
    f"{HEAD}layers:\n  - name: a\n    dir: 1\n",
    f"{HEAD}layers:\n  - name: a\n    dir: .\n    at: ../b\n",
    f"{HEAD}layers:\n  - name: a\n    dir: .\n    at: /b\n  - name: c\n    dir: d\n    copy: 1\n",
    f"{HEAD}layers:\n  - dir: .\n",
    f"{HEAD}layers:\n  - name: ''\n    dir: .\n",
    f"{HEAD}layers:\n  - text\n",
    f"{HEAD}layers:\n  - name: a\n    archive: a.tar\n    strip: -1\n",
    f"{HEAD}layers:\n  - name: a\n    archive: a.tar\n    sha256: abc\n",
    f"{HEAD}layers:\n  - name: a\n    archive: a.tar\n    copy: true\n",
    f"{HEAD}layers:\n  - name: a\n    dir: .\n    inputs: [x]\n",
    f"{BASE}  - name: a\n    run: make\n    at: b\n",
    f"{HEAD}layers:\n  - name: a\n    dir: .\n    run: make\n",
    f"{BASE}  - name: a\n    run: make\n    inputs:\n      - 1\n",
    f"{HEAD}layers:\n  - name: a\n    image: b\n    dir: .\n",
    f"{HEAD}layers:\n  - {{name: a, dir: .}}\nenv:\n  A: 1\n  B: x\n  C=D: x\n",
    f"{HEAD}layers:\n  - {{name: a, dir: .}}\nwatch:\n  ignor: []\n",
    f"{HEAD}layers:\n  - {{name: a, dir: .}}\nroot: x\n",
]


@pytest.fixture
def run_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two kinds of layers at least, whichever this version builds."""
    for module in (jsonschema, rules, words):
        monkeypatch.setattr(module, "NOT_YET", NOT_YET - {"run"})


@pytest.fixture(scope="session")
def server_command(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Install the language server, once a test run."""
    npm, node = needs.program("npm"), needs.program("node")
    place = tmp_path_factory.mktemp("language-server")
    quiet = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    done = subprocess.run(
        [npm, "install", *quiet, "--cache", place / "cache", "--prefix", place, PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        needs.lack(f"the package {PACKAGE} from npm: {done.stderr[-500:]}")
    script = place / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"
    return (node, str(script), "--stdio")


@pytest.fixture
def server(
    server_command: tuple[str, ...], run_is_built: None, tmp_path: Path
) -> Iterator[LanguageServer]:
    (tmp_path / SCHEMA_FILE).write_text(json.dumps(jsonschema.json_schema()))
    with LanguageServer(server_command, tmp_path) as server:
        yield server


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema of a mapping."""
    if isinstance(schema, list):
        for value in schema:
            yield from objects(value)
    elif isinstance(schema, dict):
        if schema.get("type") == "object" and "if" not in schema:
            yield schema
        for value in schema.values():
            yield from objects(value)


def write(directory: Path, text: str) -> Path:
    """Return a file of its own for each text: a server remembers what it has opened."""
    path = directory / f"{len(os.listdir(directory))}.yaml"
    path.write_text(text)
    return path


def own_fault_lines(text: str) -> set[int]:
    """Return the lines, from 0, that envstack itself finds fault with."""
    try:
        parse(text.encode(), b"/elsewhere/envstack.yaml")
    except StackFileError as error:
        return {fault["line"] - 1 for fault in error.faults}
    return set()


def test_every_mapping_is_closed_and_every_key_explained() -> None:
    found = list(objects(jsonschema.json_schema()))
    assert len(found) >= 4
    for mapping in found:
        assert mapping["additionalProperties"] is False
        for key, value in mapping.get("properties", {}).items():
            assert len(value["description"]) > 20, key


def test_kinds_that_nothing_builds_are_not_offered() -> None:
    schema = jsonschema.json_schema()
    assert not NOT_YET & schema["definitions"].keys()
    assert not any(f'"{kind}"' in json.dumps(schema) for kind in NOT_YET)


def test_what_the_models_allow_is_in_the_schema(run_is_built: None) -> None:
    schema = jsonschema.json_schema()
    assert schema["properties"].keys() == {
        *("version", "name", "mount", "layers", "env", "root", "watch")
    }
    assert schema["definitions"]["dir"]["properties"].keys() == {"name", "dir", "at", "copy"}
    assert schema["definitions"]["run"]["properties"].keys() == {"name", "run", "inputs"}


@pytest.mark.slow
def test_an_editor_finds_no_fault_where_there_is_none(
    server: LanguageServer, tmp_path: Path
) -> None:
    for text in GOOD:
        assert own_fault_lines(text) == set(), text
        assert server.open(write(tmp_path, text)) == [], text


@pytest.mark.slow
def test_an_editor_marks_the_lines_that_envstack_finds_fault_with(
    server: LanguageServer, tmp_path: Path
) -> None:
    for text in FAULTY:
        expected = own_fault_lines(text)
        marked = {row["range"]["start"]["line"] for row in server.open(write(tmp_path, text))}
        assert expected, text
        assert marked == expected, text


@pytest.mark.slow
def test_an_editor_completes_keys(server: LanguageServer, tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEAD}layers:\n  - name: a\n    \n")
    server.open(path)
    assert server.completions(path, 4, 4) >= {"dir", "run", "at", "copy"}
    path = write(tmp_path, f"{HEAD}\n")
    server.open(path)
    assert server.completions(path, 2, 0) >= {"name", "mount", "layers", "env", "watch"}


@pytest.mark.slow
def test_an_editor_explains_keys(server: LanguageServer, tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEAD}layers:\n  - name: a\n    dir: .\n")
    server.open(path)
    assert "bottom first" in server.hover(path, 2, 1)
    assert "relative to the stack file" in server.hover(path, 4, 5)


@pytest.mark.slow
def test_what_init_writes_leads_an_editor_to_the_schema_beside_it(
    server_command: tuple[str, ...], tmp_path: Path
) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "envstack", "init"]
    subprocess.run(command, cwd=tmp_path, env=environ, check=True)
    text = (tmp_path / "envstack.yaml").read_text()
    with LanguageServer(server_command, tmp_path) as server:
        assert server.open(tmp_path / "envstack.yaml") == []
        faulty = write(tmp_path, text.replace("mount:", "mout:"))
        assert [row["message"] for row in server.open(faulty)] == ["Property mout is not allowed."]
