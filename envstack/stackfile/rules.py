"""What must hold in a stack file beyond its shape, each rule a generator of faults.

A rule looks at the tree and not at the validated model, so that a fault in one layer does not hide
one in another; what has the wrong shape it passes over, because `words` has spoken of it.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from envstack.stackfile.schema import DEFAULT_MOUNT, NOT_YET, PATH_MAX
from envstack.stackfile.source import Fault
from envstack.stackfile.stack import is_address, locate_dir, locate_mount, within
from envstack.stackfile.tree import List, Mapping, Node, Scalar

if TYPE_CHECKING:
    from collections.abc import Iterator


def kinds(root: Node) -> Iterator[Fault]:
    """Every layer is of a kind that this version can build."""
    for layer in _layers(root):
        for key in NOT_YET & layer.entries.keys():
            yield Fault(layer.entries[key].key.at, f"`{key}` layers: not yet in this version")


def runs(root: Node) -> Iterator[Fault]:
    """A command runs on top of something: the kernel mounts no overlay without a lower layer."""
    first = next(_layers(root), None)
    if first is not None and "run" in first.entries:
        message = "a `run` layer needs a layer below it: put a `dir` first"
        yield Fault(first.entries["run"].key.at, message)


def names(root: Node) -> Iterator[Fault]:
    """No two layers share a name."""
    first: dict[str, int] = {}
    for layer in _layers(root):
        name = _text(layer, "name")
        if name is None:
            continue
        if name.text in first:
            line = first[name.text]
            yield Fault(name.at, f"two layers are named `{name.text}`; the first is in line {line}")
        first.setdefault(name.text, name.at.line)


def addresses(root: Node) -> Iterator[Fault]:
    """An archive that is fetched is one of a scheme that is known, and the one that was meant."""
    for layer in _layers(root):
        written = _text(layer, "archive")
        if written is None or not is_address(written.text):
            continue
        if not written.text.lower().startswith(("http://", "https://")):
            yield Fault(written.at, "an address begins with `http://` or `https://`")
        elif not written.text.isascii() or not written.text.isprintable() or " " in written.text:
            yield Fault(written.at, "an address has no blanks, and only ASCII: write %20 and such")
        if "sha256" not in layer.entries:
            message = "what an address serves may change: say which `sha256` it must have"
            yield Fault(written.at, message)


def patterns(root: Node) -> Iterator[Fault]:
    """Every pattern of `watch.ignore` is one by gitignore(5)."""
    watch = root.entries.get("watch") if isinstance(root, Mapping) else None
    if watch is None or not isinstance(watch.value, Mapping):
        return
    ignore = watch.value.entries.get("ignore")
    if ignore is None or not isinstance(ignore.value, List):
        return
    from pathspec import GitIgnoreSpec  # rarely needed, and not small

    for pattern in ignore.value.items:
        if isinstance(pattern, Scalar) and pattern.type == "str":
            try:
                GitIgnoreSpec.from_lines([pattern.text])
            except ValueError:
                yield Fault(pattern.at, f"`{pattern.text}` is no pattern, see gitignore(5)")


def mount(root: Node, project: bytes) -> Iterator[Fault]:
    """The mount point hides nothing above the project."""
    written = _text(root, "mount")
    place = _mount(root, project)
    if written is None or place is None:
        return
    if place != project and within(project, place):
        yield Fault(written.at, "the mount point is above the project and would hide it")


def dirs(root: Node, project: bytes, below: bytes) -> Iterator[Fault]:
    """Every `dir` is a directory, not hidden by the mount; those by reference are disjoint.

    A mount over the project itself may hide what lies in it, because the project is held open; but
    a directory above it would be seen with the mount in it. overlayfs answers ELOOP, "overlapping
    lowerdir path", where one lower directory is or lies in another (since Linux 5.2; seen on 6.18).
    Reads the disk, `below` instead of the project.
    """
    place = _mount(root, project)
    referenced: list[bytes] = []
    for layer in _layers(root):
        written = _text(layer, "dir")
        if written is None:
            continue
        real = locate_dir(project, written.text, below)
        lacking = _lacking(below + real[len(project) :] if within(real, project) else real)
        if lacking:
            path = os.path.join(project, written.text.encode())
            yield Fault(written.at, f"{lacking}: {path.decode('utf-8', 'replace')}")
            continue
        if place not in (None, project) and within(real, place):
            yield Fault(written.at, "the mount point would hide this directory")
        if not _by_reference(layer):
            continue
        if place == project != real and within(project, real):
            yield Fault(written.at, "the project, which is mounted over, lies in this directory")
        if any(within(real, other) or within(other, real) for other in referenced):
            yield Fault(
                written.at,
                "the directory overlaps that of a layer below it: add `copy: true` to one of them",
            )
        referenced.append(real)


def archives(root: Node, project: bytes, below: bytes) -> Iterator[Fault]:
    """Every `archive` is a file; one whose `sha256` is known may be unpacked already, and gone.

    Reads the disk, `below` instead of the project.
    """
    for layer in _layers(root):
        written = _text(layer, "archive")
        if written is None or is_address(written.text) or "sha256" in layer.entries:
            continue
        real = locate_dir(project, written.text, below)
        lacking = _no_file(below + real[len(project) :] if within(real, project) else real)
        if lacking:
            path = os.path.join(project, written.text.encode())
            yield Fault(written.at, f"{lacking}: {path.decode('utf-8', 'replace')}")


def _layers(root: Node) -> Iterator[Mapping]:
    if isinstance(root, Mapping) and "layers" in root.entries:
        layers = root.entries["layers"].value
        if isinstance(layers, List):
            yield from (layer for layer in layers.items if isinstance(layer, Mapping))


def _text(node: Node, key: str) -> Scalar | None:
    """Return the text under `key` if it is there and could be a path or a name."""
    if isinstance(node, Mapping) and key in node.entries:
        value = node.entries[key].value
        if isinstance(value, Scalar) and value.type == "str" and 0 < len(value.text) <= PATH_MAX:
            return value
    return None


def _mount(root: Node, project: bytes) -> bytes | None:
    written = _text(root, "mount")
    if written is not None:
        return locate_mount(project, written.text)
    if isinstance(root, Mapping) and "mount" not in root.entries:
        return locate_mount(project, DEFAULT_MOUNT)
    return None


def _by_reference(layer: Mapping) -> bool:
    at, copy = layer.data.get("at", "."), layer.data.get("copy", False)
    return isinstance(at, str) and os.path.normpath(at) == "." and copy is False


def _lacking(path: bytes) -> str:
    """Return why `path` is no directory to read, or the empty string."""
    try:
        os.close(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except FileNotFoundError:
        return "there is no such directory"
    except NotADirectoryError:
        return "this is not a directory"
    except OSError as error:
        return f"this cannot be used ({error.strerror})"
    return ""


def _no_file(path: bytes) -> str:
    """Return why `path` is no regular file, or the empty string."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "there is no such archive"
    except OSError as error:
        return f"this cannot be used ({error.strerror})"
    return "" if stat.S_ISREG(status.st_mode) else "this is not a file"
