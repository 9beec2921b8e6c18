"""A checked stack file as the rooms above use it: absolute paths, positions, what has changed.

Owns what a written value means for the project the file lies in. Free of pydantic.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from envstack.stackfile.source import Fault, printable
from envstack.stackfile.tree import find

if TYPE_CHECKING:
    from envstack.errors import StackFileError
    from envstack.stackfile.source import Source
    from envstack.stackfile.tree import Node

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MOST_LINKS = 40
"""MAXSYMLINKS of the kernel."""


@dataclass(frozen=True, slots=True)
class DirLayer:
    """A layer made of the user's directory `dir`, an absolute path.

    It stands at `at`, a path below the root of the merged tree, `b"."` for the root itself. By
    reference it is only read; else what it holds is copied into the store.
    """

    name: str
    dir: bytes
    at: bytes
    copy: bool

    @property
    def by_reference(self) -> bool:
        """Whether the directory itself is mounted: not copied, and not moved below `at`."""
        return not self.copy and self.at == b"."

    def facts(self) -> dict[str, Any]:
        """Return what makes this layer what it is, as `StackFile.canonical` writes it."""
        return {"dir": _text(self.dir), "at": _text(self.at), "copy": self.copy}


@dataclass(frozen=True, slots=True)
class ArchiveLayer:
    """A layer made of what an archive holds, below `at`, a path as that of a `DirLayer`.

    `archive` is an absolute path or an address. `sha256` is what it must have, in hexadecimal
    digits, empty where that is not said. `strip` leading parts of each name are left out.
    """

    name: str
    archive: bytes
    sha256: str
    at: bytes
    strip: int

    @property
    def is_address(self) -> bool:
        """Whether it has to be fetched."""
        return not self.archive.startswith(b"/")

    def facts(self) -> dict[str, Any]:
        """Return what makes this layer what it is, as `StackFile.canonical` writes it."""
        return {
            "archive": _text(self.archive),
            "sha256": self.sha256,
            "at": _text(self.at),
            "strip": self.strip,
        }


@dataclass(frozen=True, slots=True)
class RunLayer:
    """A layer made by a shell command on top of the layers below it.

    `inputs` are paths and glob patterns of the merged tree below: what the result depends on.
    """

    name: str
    run: str
    inputs: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return what makes this layer what it is, as `StackFile.canonical` writes it."""
        return {"run": self.run, "inputs": list(self.inputs)}


Entry = DirLayer | ArchiveLayer | RunLayer


@dataclass(frozen=True, slots=True)
class StackFile:
    """A stack file without faults. Paths are absolute; `layers` are bottom first.

    `path` and `project`, its directory, are canonical. The directory that `mount` lies in is
    canonical too where it exists; its last component is as written, a symbolic link perhaps.
    `is_root` tells whether it is a root file system, None where that is to be seen by its content.
    `ignore` are the gitignore patterns of `watch`.
    """

    version: int
    name: str
    path: bytes
    project: bytes
    mount: bytes
    layers: tuple[Entry, ...]
    env: dict[str, str]
    is_root: bool | None
    ignore: tuple[str, ...]
    source: Source = field(repr=False, compare=False)
    root: Node = field(repr=False, compare=False)

    def fault(self, layer: int | None, key: str | None, message: str) -> StackFileError:
        """Return the error that finds fault with one value.

        That is `key` of the layer numbered `layer` from 0, or of the file itself where `layer` is
        None; a key that is not written stands for the layer, or the file, as a whole.
        """
        path: list[str | int] = [] if layer is None else ["layers", layer]
        if key is not None:
            path.append(key)
        return self.source.error([Fault(find(self.root, path).at, message)])

    def canonical(self) -> str:
        """Return the file as JSON with sorted keys: equal where comments and spelling alone differ.

        `watch` is left out, because nothing that is mounted depends on it. Bytes that are not UTF-8
        are there as escaped surrogates, so the text is plain ASCII.
        """
        value = {
            "version": self.version,
            "name": self.name,
            "mount": _text(self.mount),
            "env": self.env,
            **({} if self.is_root is None else {"root": self.is_root}),
            "layers": [{"name": layer.name, **layer.facts()} for layer in self.layers],
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":"))


def differences(old: str, new: str) -> list[str]:
    """Return in words what differs between two results of `StackFile.canonical`, one a phrase.

    Values of `env` are left out, because they may be secret.
    """
    before, after = json.loads(old), json.loads(new)
    words = [
        f"{key}: {_shown(before.get(key, 'not given'))} -> {_shown(after.get(key, 'not given'))}"
        for key in ("version", "name", "mount", "root")
        if before.get(key) != after.get(key)
    ]
    layers = [{layer["name"]: layer for layer in file["layers"]} for file in (before, after)]
    words += _changes("layer", *layers)
    kept = [[name for name in side if all(name in other for other in layers)] for side in layers]
    if kept[0] != kept[1]:
        words.append("the order of the layers")
    return words + _changes("env", before["env"], after["env"])


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _changes(noun: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    words = []
    for name in [*old, *(name for name in new if name not in old)]:
        subject = f"{noun} '{_shown(name)}'"
        if name not in new:
            words.append(f"{subject} removed")
        elif name not in old:
            words.append(f"{subject} added")
        elif isinstance(new[name], str):
            words += [f"{subject} changed"] if old[name] != new[name] else []
        else:
            words += [
                f"{subject}: {key} {_shown(old[name].get(key))} -> {_shown(new[name].get(key))}"
                for key in sorted(old[name] | new[name])
                if old[name].get(key) != new[name].get(key)
            ]
    return words


def _shown(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value))


def locate_dir(project: bytes, written: str, below: bytes) -> bytes:
    """Return the canonical path of a `dir` or an `archive`, relative to `project` unless absolute.

    The symbolic links in the project are those of `below`, which is how it is reached: a merged
    tree that lies over it may have others.
    """
    at = b"/"
    names = os.path.join(project, written.encode()).split(b"/")[::-1]
    links = 0
    while names:
        name = names.pop()
        above, at = at, os.path.normpath(os.path.join(at, name))
        is_inside = at != project and within(at, project)
        seen = below + at[len(project) :] if is_inside else at
        if name not in (b"", b".", b"..") and links < _MOST_LINKS and os.path.islink(seen):
            links += 1
            target = os.readlink(seen)
            at = b"/" if target.startswith(b"/") else above
            names += target.split(b"/")[::-1]
    return at


def locate_archive(project: bytes, written: str, below: bytes) -> bytes:
    """Return an `archive` as it is if it is an address, else its canonical path."""
    return written.encode() if is_address(written) else locate_dir(project, written, below)


def is_address(written: str) -> bool:
    """Whether an `archive` is a URL, of whatever scheme, and no path."""
    return _SCHEME.match(written) is not None


def locate_mount(project: bytes, written: str) -> bytes:
    """Return the path of a `mount`: canonical but for the last component.

    The mount table names a mount by its canonical path; whether the mount point is a symbolic link
    is for the one who mounts to see.
    """
    path = os.path.join(project, written.encode())
    parent, last = os.path.split(path.rstrip(b"/"))
    if last in (b"", b".", b".."):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(parent), last)


def within(path: bytes, above: bytes) -> bool:
    """Return whether canonical `path` is `above` or lies below it."""
    return path == above or path.startswith(above.rstrip(b"/") + b"/")
