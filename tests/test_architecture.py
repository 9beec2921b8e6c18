"""The shape of DESIGN section 3: which room may know of which, and what each alone may do."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[1] / "envstack"

ROOMS = (
    "__main__",
    "cli",
    "doctor",
    "client",
    "daemon",
    "environment",
    "feed",
    "sources",
    "oci",
    "archive",
    "store",
    "stackfile",
    "overlay",
    "linux",
    "rpc",
    "errors",
    "model",
    "__init__",
)
"""Top to bottom: a room imports from those below it and nowhere else."""

NARROWER = {"client": {"rpc", "errors", "model", "__init__"}}
"""Rooms that may import even less than what lies below them."""

ONLY_IN = {"ctypes": "linux", "sqlite3": "store"}

TERMINAL = re.compile(r"print|input|exit|quit|SystemExit|sys\.(argv|exit|stdout|stderr|stdin)")
SQL = re.compile(
    r"\s*(SELECT\s.+\sFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s.+\sSET|DELETE\s+FROM|"
    r"(CREATE|DROP|ALTER)\s+(TABLE|INDEX)|PRAGMA\s|BEGIN\s+(IMMEDIATE|EXCLUSIVE))",
    re.DOTALL,
)
MUTATORS = {
    "add",
    "append",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "setdefault",
    "update",
}
MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of every import, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides its room"
            if node.module == "envstack":
                yield from ((node.lineno, _member(alias.name)) for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def _member(name: str) -> str:
    """Return what `from envstack import name` takes: a room, or something of the package's own."""
    return f"envstack.{name}" if name in ROOMS else "envstack"


def import_faults(room: str, tree: ast.Module) -> Iterator[str]:
    below = set(ROOMS[ROOMS.index(room) :])
    allowed = NARROWER.get(room, below) | {room}
    for line, name in imports(tree):
        package, _, rest = name.partition(".")
        if package == "envstack":
            if (rest.split(".")[0] or "__init__") not in allowed:
                yield f"{line}: {room}/ may not import {name}"
        elif ONLY_IN.get(package, room) != room:
            yield f"{line}: only {ONLY_IN[package]}/ may import {package}"


def terminal_faults(room: str, tree: ast.Module) -> Iterator[str]:
    if room in {"cli", "__main__"}:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and TERMINAL.fullmatch(ast.unparse(node)):
            yield f"{node.lineno}: only cli/ may use {ast.unparse(node)}"


def sql_faults(room: str, tree: ast.Module) -> Iterator[str]:
    if room == "store":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value):
            yield f"{node.lineno}: only store/ may hold SQL"


def state_faults(tree: ast.Module) -> Iterator[str]:
    """Yield where a function changes what belongs to its module."""
    shared = set(_mutable_globals(tree))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                yield f"{node.lineno}: `global` makes state of the module's"
            elif _changed(node) in shared:
                yield f"{getattr(node, 'lineno', 0)}: changes the module's {_changed(node)}"


def _mutable_globals(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        value = getattr(node, "value", None)
        made = isinstance(value, ast.Call) and ast.unparse(value.func) in {"dict", "list", "set"}
        if isinstance(value, MUTABLE) or made:
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def _changed(node: ast.AST) -> str | None:
    """Return the name of the collection that `node` changes in place, if it does."""
    holder: ast.expr | None = None
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        holder = node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        holder = node.func.value if node.func.attr in MUTATORS else None
    return holder.id if isinstance(holder, ast.Name) else None


def faults(room: str, source: str) -> list[str]:
    tree = ast.parse(source)
    return [
        *import_faults(room, tree),
        *terminal_faults(room, tree),
        *sql_faults(room, tree),
        *state_faults(tree),
    ]


MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_keeps_to_its_room(module: str) -> None:
    room = module.split("/")[0].removesuffix(".py")
    assert room in ROOMS, f"{room} is a room that DESIGN section 3 does not know"
    assert not faults(room, (PACKAGE / module).read_text())


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("linux", "from envstack.overlay import mount"),
        ("linux", "from envstack import store"),
        ("rpc", "import envstack.linux.syscalls"),
        ("overlay", "def late():\n    from envstack.environment import up"),
        ("client", "from envstack.linux import mounts"),
        ("errors", "from envstack.rpc import shapes"),
        ("overlay", "import ctypes"),
        ("environment", "from sqlite3 import connect"),
        ("daemon", "print('here')"),
        ("daemon", "import sys\nsys.exit(1)"),
        ("client", "raise SystemExit"),
        ("environment", "rows = query('SELECT id FROM layers')"),
        ("store", "seen = 0\ndef see():\n    global seen\n    seen += 1"),
        ("store", "cache = {}\ndef see(key):\n    cache[key] = 1"),
        ("store", "cache: list[int] = []\ndef see(key):\n    cache.append(key)"),
    ],
)
def test_what_the_rules_forbid_is_found(room: str, source: str) -> None:
    assert faults(room, source)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("cli", "from envstack.daemon import run\nprint('here')"),
        ("client", "from envstack.rpc import shapes\nfrom envstack import __version__"),
        ("linux", "import ctypes\nfrom envstack.errors import Unsupported"),
        ("store", "import sqlite3\nrows = query('SELECT id FROM layers')"),
        ("store", "names = {'a': 1}\ndef see(key):\n    own = []\n    own.append(names[key])"),
        ("environment", "hint = 'Select a layer, or update the stack file and set its name.'"),
    ],
)
def test_what_the_rules_allow_is_no_fault(room: str, source: str) -> None:
    assert not faults(room, source)


def test_what_is_no_python_is_installed_with_the_package() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    shipped = {
        found
        for package, patterns in project["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for found in PACKAGE.parent.joinpath(*package.split(".")).glob(pattern)
    }
    others = {
        path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert others - shipped == set()
