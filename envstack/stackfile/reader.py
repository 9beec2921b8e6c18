"""From the bytes of a stack file to a `StackFile`, or to all of its faults at once.

Owns the order: text, tree, shape, rules. Each finds what it can before any of them gives up.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING

from pydantic import ValidationError

from envstack.errors import EnvstackError, NotFound, UsageError
from envstack.stackfile import rules, tree, words
from envstack.stackfile.schema import Archive, Dir, Run, Stack
from envstack.stackfile.source import SIZE_LIMIT, decode, printable
from envstack.stackfile.stack import (
    ArchiveLayer,
    DirLayer,
    Entry,
    RunLayer,
    StackFile,
    locate_archive,
    locate_dir,
    locate_mount,
)
from envstack.stackfile.template import default_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envstack.stackfile.source import Fault
    from envstack.stackfile.tree import Node

    Check = Callable[[Node, bytes], Iterator[Fault]]


def load(path: bytes, below: bytes | None = None) -> StackFile:
    """Return the stack file at `path`, which may be relative and a symbolic link.

    `below` is how its directory is reached where something is mounted over that: file and
    directories are looked for there, and named by their path all the same.

    Raises StackFileError with every fault found, what is not there among them, NotFound where
    there is no such file, UsageError where it is no regular file, EnvstackError where it cannot be
    read.
    """
    real = _canonical(path)
    project, name = os.path.split(real)
    below = below or project
    text = read_bytes(os.path.join(below, name), real)
    there = (partial(rules.dirs, below=below), partial(rules.archives, below=below))
    return _check(text, real, below, (rules.mount, *there))


def parse(text: bytes, path: bytes) -> StackFile:
    """Return the stack file that `text` would be at `path`, whether or not anything is there.

    Raises StackFileError with every fault found; what the layers name is not looked at.
    """
    real = _canonical(path)
    return _check(text, real, os.path.dirname(real), (rules.mount,))


def _canonical(path: bytes) -> bytes:
    if b"\0" in path:
        raise NotFound("a file name cannot contain a NUL byte")
    return os.path.realpath(path)


def read_bytes(path: bytes, real: bytes) -> bytes:
    """Return the bytes of `path`, called `real`, and no more than show that it is too large.

    Raises NotFound, UsageError where it is no regular file, EnvstackError where it cannot be read.
    """
    shown = printable(real.decode("utf-8", "replace"))
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UsageError(f"{shown} is not a regular file", "name the stack file itself")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(SIZE_LIMIT + 1)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no {shown}", "`envstack init` writes a first one") from None
    except OSError as error:
        raise EnvstackError(f"{shown} cannot be read: {error.strerror}") from error


def _check(text: bytes, path: bytes, below: bytes, placed: tuple[Check, ...]) -> StackFile:
    source = decode(text, path)
    root, faults = tree.read(source)
    project = os.path.dirname(path)
    for look in (rules.kinds, rules.names, rules.runs, rules.addresses, rules.patterns):
        faults += look(root)
    for rule in placed:
        faults += rule(root, project)
    try:
        stack = Stack.model_validate(root.data)
    except ValidationError as error:
        raise source.error([*faults, *words.explain(error, root)]) from None
    if faults:
        raise source.error(faults)
    return StackFile(
        version=stack.version,
        name=stack.name or default_name(project),
        path=path,
        project=project,
        mount=locate_mount(project, stack.mount),
        layers=tuple(_layers(stack, project, below)),
        env=stack.env,
        is_root=stack.root,
        ignore=tuple(stack.watch.ignore),
        source=source,
        root=root,
    )


def _layers(stack: Stack, project: bytes, below: bytes) -> Iterator[Entry]:
    for layer in stack.layers:
        match layer:
            case Dir():
                yield DirLayer(
                    name=layer.name,
                    dir=locate_dir(project, layer.dir, below),
                    at=os.path.normpath(layer.at.encode()),
                    copy=layer.copy_,
                )
            case Archive():
                yield ArchiveLayer(
                    name=layer.name,
                    archive=locate_archive(project, layer.archive, below),
                    sha256=layer.sha256,
                    at=os.path.normpath(layer.at.encode()),
                    strip=layer.strip,
                )
            case Run():
                yield RunLayer(name=layer.name, run=layer.run, inputs=tuple(layer.inputs))
