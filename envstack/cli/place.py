"""Which environment is meant: the merged tree one stands in, else the nearest stack file.

Looks at directories and at the mount table alone; asks no daemon. What it returns are the
parameters by which every `env.*` method knows an environment.
"""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envstack.errors import EnvstackError, NotFound, StateError, Unsupported
from envstack.linux.mountinfo import read_mounts, stack_at
from envstack.rpc.shapes import told_bytes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

STACK_FILE = "envstack.yaml"

_SOURCE = b"envstack:"
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

Target = dict[str, str]
"""`{"upper": ID}` inside a merged tree, else `{"stack": canonical path of the stack file}`."""


def here() -> Target:
    """Return the environment of the current directory, and leave that for `/`.

    A process that stays would hold the merged tree. Raises NotFound where there is no environment,
    StateError where the directory is no longer part of the file tree.
    """
    try:
        target = _find()
    except OSError as error:
        message = f"the current directory cannot be looked at: {error.strerror}"
        raise EnvstackError(message) from error
    os.chdir("/")
    return target


@dataclass(frozen=True, slots=True)
class Standing:
    """The current directory, by its path, and by its place in a merged tree if it lies in one."""

    path: bytes
    inside: bytes

    def within(self, mount: bytes) -> bytes:
        """Return its path below `mount`, where a merged tree is seen; `mount` for one outside.

        What is below a mount over the project is, by its path, within that.
        """
        if self.inside:
            return os.path.normpath(os.path.join(mount, self.inside))
        return self.path if (self.path + b"/").startswith(mount + b"/") else mount


def standing() -> Standing:
    """Return the current directory; raises StateError where it has no path any more."""
    path = current_directory()
    return Standing(path, _inside(path))


def in_merged_tree(paths: Sequence[str]) -> list[str]:
    """Return `paths` of a merged tree, absolute or relative to its root.

    Relative ones are relative to the current directory inside a merged tree, else to its root.
    """
    inside = _inside(current_directory())
    return [
        os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if os.path.isabs(path)
        else os.path.join(os.fsdecode(inside), path)
        for path in map(os.path.normpath, paths)
    ]


def is_in_merged_tree() -> bool:
    """Tell whether the current directory lies in a merged tree: its environment is meant."""
    return bool(_inside(current_directory()))


def _inside(directory: bytes) -> bytes:
    """Return where in a merged tree the current directory lies, empty outside of one.

    `directory` is its path.
    """
    here = os.open(".", _DIRECTORY)
    try:
        mount_id = _mount_id(here)
    finally:
        os.close(here)
    for mount in read_mounts():
        if mount.id == mount_id and mount.source.startswith(_SOURCE):
            place = os.path.relpath(directory, mount.point)
            return os.path.normpath(os.path.join(mount.root.lstrip(b"/"), place))
    return b""


def named(path: str) -> Target:
    """Return the environment of the stack file at `path`; raises NotFound where there is none."""
    current_directory()
    if not os.path.lexists(path):
        raise NotFound(f"there is no {path}", "envstack init")
    return known_by(path)


def known_by(path: str) -> Target:
    """Return the environment that the stack file at `path` made, whether or not it is there now."""
    current_directory()
    target = {"stack": os.path.realpath(path)}
    os.chdir("/")
    return target


@contextmanager
def below(row: dict[str, Any]) -> Iterator[bytes]:
    """Yield how the stack file's directory is reached, which `row`, a status, may lie over."""
    project, point = os.path.dirname(told_bytes(row["stack"])), told_bytes(row["mount"])
    mounts = stack_at(read_mounts(), point) if project == point else []
    if not mounts:
        yield project
        return
    from envstack.linux.covered import open_covered

    descriptor = open_covered(mounts[0])
    try:
        yield b"/proc/self/fd/%d" % descriptor
    finally:
        os.close(descriptor)


def shows_its_stack_file(row: dict[str, Any]) -> bool:
    """Tell whether the stack file's path shows the file that counts, and not a changed copy.

    Where this machine cannot show the one below, nothing is said against it.
    """
    if row["project"] != row["mount"]:
        return True
    import filecmp

    shown = told_bytes(row["stack"])
    try:
        with below(row) as project:
            counts = os.path.join(project, os.path.basename(shown))
            return filecmp.cmp(shown, counts, shallow=False)
    except OSError:
        return False
    except Unsupported:
        return True


def current_directory() -> bytes:
    """Return the path of the current directory; raises StateError where it has none.

    A stack file that is found there all the same means nothing.
    """
    try:
        return os.getcwdb()
    except FileNotFoundError:
        raise StateError(
            "the current directory is deleted, or lies in a merged tree that was swapped out",
            'cd "$PWD"',
        ) from None


def _find() -> Target:
    uppers = {
        mount.id: mount.source.removeprefix(_SOURCE)
        for mount in read_mounts()
        if mount.source.startswith(_SOURCE)
    }
    stack: str | None = None
    with closing(_upwards()) as directories:
        for directory in directories:
            # To the very top: other mounts may lie inside a merged tree.
            if uppers and (upper := uppers.get(_mount_id(directory))) is not None:
                return {"upper": os.fsdecode(upper)}
            if stack is None and _holds_stack_file(directory):
                stack = os.readlink(f"/proc/self/fd/{directory}")
    here = current_directory()
    if stack is None:
        raise NotFound(f"there is no {STACK_FILE} here or further up", _way_on(here))
    return {"stack": os.path.realpath(os.path.join(stack, STACK_FILE))}


def _way_on(directory: bytes) -> str:
    """Return what to do without a stack file; a project that had one still has its merged tree."""
    private = os.path.join(directory, b".envstack/")
    for mount in read_mounts():
        if mount.source.startswith(_SOURCE) and mount.point.startswith(private):
            point = os.fsdecode(mount.point)
            return f"put it back; its merged tree is up, and commands work in there: cd {point}"
    return "envstack init writes one; envstack ls lists the environments there are"


def _upwards() -> Generator[int, None, None]:
    """Yield descriptors of the current directory and of all above it, each open until the next.

    By `..`, not by path: a path may be longer than the kernel takes in one call.
    """
    at = os.open(".", _DIRECTORY)
    try:
        while True:
            yield at
            above = os.open("..", _DIRECTORY, dir_fd=at)
            below, at = at, above
            is_top = os.path.sameopenfile(below, at) and _mount_id(below) == _mount_id(at)
            os.close(below)
            if is_top:
                return
    finally:
        os.close(at)


def _mount_id(directory: int) -> int:
    # Late: ctypes is needed by nobody else here.
    from envstack.linux.syscalls import mount_id

    return mount_id(b"", dir_fd=directory)


def _holds_stack_file(directory: int) -> bool:
    """Tell whether there is anything of that name; what is wrong with it is for its reader."""
    try:
        os.stat(STACK_FILE, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, PermissionError):
        return False
    return True
