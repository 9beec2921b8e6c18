"""The base of an environment: each layer of the stack file is found by its key, or built.

A key says what a layer is made from. Layers that were built for an `up` that failed later on, or
that only a checkpoint still needs, are found again. What an entry means is the business of
`sources`; what becomes of the environment that of `up`.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envstack import stackfile
from envstack.environment import trust
from envstack.environment.keys import key_of, kind_of, open_archive, sha256_of
from envstack.environment.mounting import is_within
from envstack.environment.steps import Step
from envstack.environment.swap import mount_of
from envstack.errors import EnvstackError, NotFound
from envstack.linux.commands import Command
from envstack.model import Layer, LayerId, LayerKind, LayerState, new_id
from envstack.overlay.mount import Overlay
from envstack.overlay.root import copy_root
from envstack.sources import archive, command, directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from envstack.environment.context import Audience, Context, Progress
    from envstack.model import Chain, Environment
    from envstack.stackfile import ArchiveLayer, DirLayer, Entry, RunLayer, StackFile

ALL = ""
"""Not the name of any layer: every layer that can be built."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for besides the stack file.

    `environ` are the variables of the user's own shell, for commands. `rebuild` names a layer that
    is built anew with all above it, `ALL` every one; None takes what is there.
    """

    audience: Audience
    environ: Mapping[bytes, bytes]
    rebuild: str | None = None
    ignore: frozenset[int] = frozenset()


def build_base(ctx: Context, env: Environment, stack: StackFile, request: Request) -> Chain:
    """Return the chain of the stack file's layers, topmost first, with all of them there.

    `env` is the environment as it will be, but for its layers; its mount point is there. Raises
    StackFileError, Untrusted, CommandFailed, NotFound for a `rebuild` that names no layer.
    """
    _check_directories(ctx, stack)
    if request.rebuild not in (None, ALL, *(entry.name for entry in stack.layers)):
        raise NotFound(f"the stack file has no layer {request.rebuild!r}", "envstack validate")
    ctx.announce(Step.STAGE)
    return _Building(ctx, env, stack, request).run()


class _Building:
    """One base being built, bottom first."""

    def __init__(self, ctx: Context, env: Environment, stack: StackFile, request: Request) -> None:
        self._ctx = ctx
        self._env = env
        self._stack = stack
        self._request = request
        self._chain: Chain = ()
        self._keys: list[str] = []
        self._built: dict[str | None, list[Layer]] = defaultdict(list)
        for layer in ctx.store.built.of(env.id):
            self._built[layer.key].append(layer)

    def run(self) -> Chain:
        anew = False
        for number, entry in enumerate(self._stack.layers):
            anew = anew or self._request.rebuild in (ALL, entry.name)
            tell = self._teller(self._which(number))
            key = key_of(self._ctx, self._env, self._stack, number, self._chain, self._keys, tell)
            is_rebuilt = anew and kind_of(entry) is not LayerKind.DIR
            layer = None if is_rebuilt else self._find(key, entry.name)
            self._chain = (layer or self._make(number, entry, key), *self._chain)
            self._keys.append(key)
        return self._chain

    def _find(self, key: str, name: str) -> LayerId | None:
        """Return a layer of that key that is no part of this base yet, called `name` from now."""
        while self._built[key]:
            layer = self._built[key].pop()
            store = self._ctx.store
            is_there = layer.kind is LayerKind.DIR or store.layers.exists(layer.id)
            if is_there and store.built.adopt(layer.id, self._env.id, name):
                return layer.id
        return None

    def _make(self, number: int, entry: Entry, key: str) -> LayerId:
        if kind_of(entry) is not LayerKind.DIR:
            # Before anything is built: who says no has waited for nothing, and nothing is left.
            trust.require_trusted(self._ctx, self._stack)
        which = self._which(number)
        if isinstance(entry, stackfile.ArchiveLayer):
            layer = self._begin(entry, key, entry.archive)
            self._unpack(layer.id, number, entry, self._teller(which))
            self._publish(layer)
            return layer.id
        if isinstance(entry, stackfile.RunLayer):
            layer = self._begin(entry, key, None)
            self._request.audience.tell(which)
            self._run(layer.id, entry)
            self._publish(layer)
            return layer.id
        layer = self._begin(entry, key, entry.dir)
        if not entry.by_reference:
            self._copy(layer.id, entry, which)
            self._publish(layer)
        return layer.id

    def _which(self, number: int) -> str:
        layers = self._stack.layers
        return f"layer {number + 1} of {len(layers)}: {layers[number].name}"

    def _teller(self, which: str) -> Progress:
        """Return what tells how far a layer is."""
        return lambda message: self._request.audience.tell(f"{which}, {message}")

    def _begin(self, entry: Entry, key: str, source: bytes | None) -> Layer:
        state = LayerState.BUILDING
        layer = Layer(LayerId(new_id()), kind_of(entry), state, entry.name, source, key)
        self._ctx.store.db.add_layer(self._env.id, layer)
        return layer

    def _publish(self, layer: Layer) -> None:
        self._ctx.announce(Step.PUBLISH)
        record = {"id": layer.id, "kind": layer.kind, "name": layer.name, "source": layer.source}
        self._ctx.store.layers.publish(layer.id, record | {"key": layer.key})
        # Whatever becomes of this `up`, the next one need not build it again.
        self._ctx.store.db.set_layer_state(layer.id, LayerState.SEALED)

    def _copy(self, layer: LayerId, entry: DirLayer, which: str) -> None:
        self._ctx.announce(Step.COPY)
        tree = self._ctx.store.layers.stage(layer)
        below = (*self._trees(), self._reach(self._env.project))
        source = self._reach(entry.dir)
        tell = self._teller(which)
        try:
            directory.build(
                replace(entry, dir=source),
                tree,
                below,
                lambda count: tell(f"{count:,} entries copied"),
            )
        except OSError as error:
            where = os.fsencode(error.filename or source).replace(source, entry.dir, 1)
            raise EnvstackError(
                f"layer {entry.name!r} cannot be copied: {error.strerror}: {os.fsdecode(where)}",
                _way_out(error),
            ) from error

    def _unpack(self, layer: LayerId, number: int, entry: ArchiveLayer, tell: Progress) -> None:
        self._ctx.announce(Step.COPY)
        tree = self._ctx.store.layers.stage(layer)
        below = (*self._trees(), self._reach(self._env.project))
        try:
            with self._archive(number, entry, tell) as (found, file):
                archive.build(found, file, tree, below, self._ctx.limits.archive, tell)
        except OSError as error:
            what = f"layer {entry.name!r} cannot be unpacked: {error.strerror}"
            raise EnvstackError(what, _way_out(error)) from error

    @contextmanager
    def _archive(
        self, number: int, entry: ArchiveLayer, tell: Progress
    ) -> Iterator[tuple[ArchiveLayer, int]]:
        """Yield the entry with the `sha256` that it must have, and a descriptor of the archive."""
        if entry.is_address:
            from envstack.sources.fetching import fetched  # rarely needed, and it brings TLS

            most, folder = self._ctx.limits.archive.bytes, self._ctx.store.layers.places[1]
            address = os.fsdecode(entry.archive)
            with fetched(address, folder, self._request.environ, most, tell) as file:
                yield entry, file
            return
        sha256 = sha256_of(self._ctx, self._env, self._stack, number, entry, tell)
        with open_archive(self._ctx, self._env, self._stack, number, entry) as file:
            yield replace(entry, sha256=sha256), file

    def _run(self, layer: LayerId, entry: RunLayer) -> None:
        self._ctx.announce(Step.RUN)
        layers, below = self._ctx.store.layers, self._trees()
        tree = layers.stage(layer)
        copy_root(below[0], tree)
        overlay = Overlay(
            b"envstack-build:" + layer.encode(), below, tree, layers.stage_work(layer)
        )
        mount = mount_of(self._ctx, overlay, like=self._reach(self._env.project))
        try:
            environ = _environ(self._stack, self._request)
            what = Command(
                (b"/bin/sh", b"-ec", entry.run.encode()), environ, mount, self._env.mount
            )
            command.run(self._ctx.launcher, what, entry.name, self._request.audience.show)
        finally:
            os.close(mount)

    def _trees(self) -> tuple[bytes, ...]:
        return self._ctx.trees(self._env, self._chain)

    def _reach(self, path: bytes) -> bytes:
        return self._ctx.beneath.reach(self._env, path)


def _way_out(error: OSError) -> str:
    no_space = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "free some space for the store" if no_space else ""


def _environ(stack: StackFile, request: Request) -> dict[bytes, bytes]:
    """Return the variables of a command: the user's own, the stack's over them, and ours."""
    return {
        **request.environ,
        **{name.encode(): value.encode() for name, value in stack.env.items()},
        b"ENVSTACK_ENV": stack.name.encode(),
        b"ENVSTACK_MOUNT": stack.mount,
        b"PWD": stack.mount,
    }


def _check_directories(ctx: Context, stack: StackFile) -> None:
    """Raise StackFileError, with position, for a directory that cannot be a layer."""
    home = os.path.realpath(ctx.store.home)
    for index, entry in enumerate(stack.layers):
        if not isinstance(entry, stackfile.DirLayer):
            continue
        if is_within(home, entry.dir) or is_within(entry.dir, home):
            raise stack.fault(
                index,
                "dir",
                f"the store ({os.fsdecode(home)}) and this directory lie in one another",
            )
