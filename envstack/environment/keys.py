"""What each layer of a stack file is made from, as a key: layers of one key are the same.

A directory by reference enters by its path, a copy by its path and place, an archive by what it
holds, wherever it comes from, and its place, a command by all that it can see and that is declared:
itself, the variables, where it runs, the keys of the layers below and the content of its inputs.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from envstack import stackfile
from envstack.environment.swap import mount_of
from envstack.errors import Cancelled, Damaged, EnvstackError, Unsupported
from envstack.model import LayerKind
from envstack.overlay.mount import Overlay
from envstack.sources import archive, fingerprint, inputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from envstack.environment.context import Context, Progress
    from envstack.model import Chain, Environment
    from envstack.stackfile import ArchiveLayer, Entry, RunLayer, StackFile


def kind_of(entry: Entry) -> LayerKind:
    """Return the kind of layer that an entry becomes."""
    if isinstance(entry, stackfile.RunLayer):
        return LayerKind.RUN
    if isinstance(entry, stackfile.ArchiveLayer):
        return LayerKind.ARCHIVE
    return LayerKind.DIR if entry.by_reference else LayerKind.COPY


def key_of(
    ctx: Context,
    env: Environment,
    stack: StackFile,
    number: int,
    below: Chain,
    keys: Sequence[str | None],
    tell: Progress,
) -> str:
    """Return the key of the entry of that number, from 0; `keys` are those of the chain `below`.

    `tell` is told how far it is where an archive has to be read. Raises StackFileError for an input
    or an archive that is not there.
    """
    entry = stack.layers[number]
    facts = {"kind": kind_of(entry), **entry.facts()}
    if isinstance(entry, stackfile.RunLayer):
        # The path too: a virtual environment that is moved no longer starts.
        facts |= {"env": stack.env, "mount": os.fsdecode(stack.mount), "below": keys}
        facts["content"] = _inputs(ctx, env, stack, number, entry, below)
    elif isinstance(entry, stackfile.ArchiveLayer):
        facts["sha256"] = sha256_of(ctx, env, stack, number, entry, tell)
        del facts["archive"]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def sha256_of(
    ctx: Context,
    env: Environment,
    stack: StackFile,
    number: int,
    entry: ArchiveLayer,
    tell: Progress,
) -> str:
    """Return the SHA-256 that the archive has to have: as it is written, else as it has it now.

    One that is as it was when it was read last is not read again.
    """
    if entry.sha256:
        return entry.sha256
    with open_archive(ctx, env, stack, number, entry) as file:
        began_ns, status = fingerprint.clock_ns(), os.fstat(file)
        identity = archive.identity(status)
        known = ctx.store.digests.of(entry.archive, identity)
        if known is not None:
            return known
        try:
            found = archive.digest(file, tell)
        except OSError as error:
            raise EnvstackError(
                f"the archive of layer {entry.name!r} cannot be read: {error.strerror}"
            ) from error
        # A change in the instant of the last one would have the same time stamp.
        if status.st_ctime_ns < began_ns and archive.identity(os.fstat(file)) == identity:
            ctx.store.digests.put(entry.archive, identity, found)
        return found


@contextmanager
def open_archive(
    ctx: Context, env: Environment, stack: StackFile, number: int, entry: ArchiveLayer
) -> Iterator[int]:
    """Yield a descriptor of an archive that is a file; StackFileError where it cannot be read."""
    with ExitStack() as opened:
        try:
            path = ctx.beneath.reach(env, entry.archive)
            file = opened.enter_context(archive.opened(path))
        except OSError as error:
            what = f"{error.strerror or error}: {os.fsdecode(entry.archive)}"
            raise stack.fault(number, "archive", what) from None
        yield file


def _inputs(
    ctx: Context, env: Environment, stack: StackFile, number: int, entry: RunLayer, below: Chain
) -> str:
    try:
        with _view(ctx, env, below) as root:
            return inputs.digest(root, entry.inputs)
    except inputs.NoMatchError as error:
        message = f"`{error.args[0]}` matches nothing in the layers below"
        raise stack.fault(number, "inputs", message) from None
    except OSError as error:
        raise EnvstackError(
            f"the inputs of layer {entry.name!r} cannot be read: {error.strerror}"
        ) from error


@contextmanager
def _view(ctx: Context, env: Environment, chain: Chain) -> Iterator[bytes]:
    """Yield a path under which the chain is seen as one tree, mounts upon its directories aside."""
    with ctx.store.layers.empty() as bottom:
        # An overlay without an upper takes two layers, and there may be one.
        lowers = (*ctx.trees(env, chain), bottom)
        like = ctx.beneath.reach(env, env.project)
        mount = mount_of(ctx, Overlay(b"envstack-view", lowers), like)
        try:
            yield b"/proc/self/fd/%d" % mount
        finally:
            os.close(mount)


def outdated(ctx: Context, env: Environment, stack: StackFile, tell: Progress) -> tuple[str, ...]:
    """Return the names of the layers that are made from something else than what is there now."""
    layers = list(reversed(ctx.store.db.chain(env.base)))
    if len(layers) != len(stack.layers):
        return tuple(entry.name for entry in stack.layers)
    found = []
    for number, (entry, layer) in enumerate(zip(stack.layers, layers, strict=True)):
        below = env.base[len(layers) - number :]
        keys = [under.key for under in layers[:number]]
        try:
            is_same = key_of(ctx, env, stack, number, below, keys, tell) == layer.key
        except (Cancelled, Damaged, Unsupported):
            raise
        except EnvstackError:  # an input is gone, or cannot be read: it could when it was built
            is_same = False
        if not is_same:
            found.append(entry.name)
    return tuple(found)
