"""What may come next in a command line that is being typed.

Knows the commands by their own declarations: a parameter's metavar says what its values are. Values
that a shell knows better how to complete are asked of it: `:files`, `:directories`, `:stackfiles`.
Asks the daemon if one runs, starts none, and gives up soon.
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from envstack import client
from envstack.cli import calls, place, text
from envstack.errors import EnvstackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType
    from typing import NoReturn

Suggestion = tuple[str, str]
"""A value, and a word on it or nothing."""

_PATIENCE = 0.2
"""Seconds for the daemon and the disk: whoever waits for longer thinks that nothing works."""

_PATHS = {
    "DIR": ":directories",
    "STACKFILE": ":stackfiles",
    "FILE": ":files",
    "PATH": ":files",
    "CMD": ":files",
}
_REVISIONS = ("REV", "A", "B")


@dataclass(slots=True)
class _Line:
    """How far the words before the cursor have been understood."""

    command: Any
    directory: str | None = None
    pending: Any = None
    arguments: int = 0
    only_arguments: bool = False
    seen: set[str] = field(default_factory=set)


def suggest(program: Any, words: Sequence[str], current: str) -> Iterator[Suggestion]:
    """Yield what may stand in place of `current`, the beginning of a word, after `words`."""
    line = _Line(program)
    for word in words:
        if not _take(line, word):
            return
    current = "" if current == "=" else current  # how bash splits --option=value
    if line.pending is not None:
        found = _values(line, line.pending, current)
    elif line.only_arguments:  # what commands take then are paths
        found = iter([(":files", "")])
    elif not current.startswith("-"):
        found = _next(line, current)
    elif "=" in current:
        found = _joined(line, current)
    else:
        found = _options(line)
    yield from (row for row in found if row[0].startswith((current, ":")))


def _take(line: _Line, word: str) -> bool:
    """Understand one word more; return False where there is no such command."""
    if line.pending is not None:
        if word != "=":
            if "-C" in line.pending.opts:
                line.directory = word
            line.pending = None
    elif word == "--" and not line.only_arguments:
        line.only_arguments = True
    elif word.startswith("-") and word != "-" and not line.only_arguments:
        name, joined, _value = word.partition("=")
        option = _option(line.command, name)
        line.seen.add(name)
        if option is not None and (option.metavar or "").endswith("…"):
            line.only_arguments = True  # all that follows is its own
        elif option is not None and not option.is_flag and not joined:
            line.pending = option
    elif hasattr(line.command, "commands"):
        line.command = line.command.commands.get(word)
    else:
        line.arguments += 1
    return line.command is not None


def _option(command: Any, name: str) -> Any:
    return next((param for param in command.params if name in param.opts), None)


def _options(line: _Line) -> Iterator[Suggestion]:
    for param in line.command.params:
        if param.param_type_name == "option" and not param.hidden:
            for name in param.opts:
                if name not in line.seen:
                    yield name, param.help or ""
    yield "--help", "Show this message and exit."


def _joined(line: _Line, current: str) -> Iterator[Suggestion]:
    """Yield values of an option that stand in one word with it."""
    name, _, value = current.partition("=")
    option = _option(line.command, name)
    if option is not None:
        for found, help_text in _values(line, option, value):
            yield f"{name}={found}", help_text


def _next(line: _Line, current: str) -> Iterator[Suggestion]:
    """Yield what may stand where no option does: a command's name, or an argument."""
    if hasattr(line.command, "commands"):
        for name, command in line.command.commands.items():
            if not command.hidden:
                yield name, (command.help or "").strip().partition("\n")[0]
        return
    arguments = [param for param in line.command.params if param.param_type_name == "argument"]
    for number, param in enumerate(arguments):
        if number == line.arguments or (number < line.arguments and param.nargs == -1):
            yield from _values(line, param, current)


def _values(line: _Line, param: Any, current: str) -> Iterator[Suggestion]:
    """Yield values of a parameter."""
    kind = re.sub(r"[^A-Za-z|-]", "", param.metavar or "")
    if "|" in kind:
        yield from ((choice, "") for choice in kind.split("|"))
    elif kind in _PATHS:
        yield _PATHS[kind], ""
    elif kind in _REVISIONS:
        yield from _in_time(line, lambda: _checkpoints(current))
        yield "@", "the head"
        yield "base", "the stack alone"
    elif kind == "LAYER":
        yield from _in_time(line, _layers)


def _in_time(line: _Line, ask: Callable[[], Iterator[Suggestion]]) -> list[Suggestion]:
    """Return what `ask` finds in the directory that is meant; nothing if it fails or takes long."""
    try:
        with _bounded():
            os.chdir(line.directory or ".")
            return list(ask())
    except (EnvstackError, OSError):
        return []  # no daemon, no environment: that is told when the command runs


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise TimeoutError after a while, whatever is being waited for."""
    signal.signal(signal.SIGALRM, _over)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _over(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError


def _checkpoints(current: str) -> Iterator[Suggestion]:
    """Yield the tags and ids of the history, newest first."""
    target = place.here()
    with client.find(calls.own_places(), _PATIENCE) as daemon:
        rows = daemon.call("env.log", dict(target))
    for row in rows:
        shown = row["id"][: max(text.ID_SHOWN, len(current))]
        if row["tag"]:
            yield row["tag"], f"{shown} {text.title(row['message'])}"
        yield shown, text.title(row["message"]) or "checkpoint"


def _layers() -> Iterator[Suggestion]:
    """Yield the names of the layers that the stack file declares, as far as it can be read."""
    from envstack.stackfile import source, tree

    target: dict[str, Any] = dict(place.here())
    if "stack" not in target:
        with client.find(calls.own_places(), _PATIENCE) as daemon:
            target = daemon.call("env.status", target)
    path = os.fsencode(target["stack"])
    with open(path, "rb") as file:
        root, _faults = tree.read(source.decode(file.read(source.SIZE_LIMIT), path))
    layers = root.data.get("layers") if isinstance(root.data, dict) else None
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict) and isinstance(layer.get("name"), str):
            yield text.escaped(layer["name"]), next((key for key in layer if key != "name"), "")
