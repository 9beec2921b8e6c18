"""What is wrong with a store at rest: its database, its directories, and how the two agree.

Reads `meta.db` and the directories with code of its own, as a judge of envstack's.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Row = dict[str, Any]

_WITHIN = 12.0
"""Seconds: more than twice the longest pause before work in the background is tried again."""


class Books:
    """The store at `home`, read while its daemon goes on."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def wait_until_in_order(self) -> None:
        """Wait for the work in the background, and fail if it leaves anything that is wrong."""
        try:
            waiting.until(lambda: not self.faults(), "a store in order", within=_WITHIN)
        except TimeoutError:
            found = self.faults()
        else:
            return
        raise AssertionError("the store is not in order:\n" + "\n".join(found))

    def faults(self) -> list[str]:
        """Return a line for everything that must not be so when no work is left."""
        environments, layers, checkpoints = (
            self._rows(table) for table in ("environment", "layer", "checkpoint")
        )
        return [
            *(f"open intent: {row['transition']}" for row in self._rows("intent")),
            *(f"not counted: {row['id']}" for row in checkpoints if row["added"] is None),
            *(f"not durable: {row['id']}" for row in layers if row["boot"] is not None),
            *_wrong_states(environments, layers, checkpoints),
            *_wrong_spares(environments, layers),
            *_wrong_fingerprints(environments, layers, self._rows("fingerprint")),
            *self._wrong_directories(layers),
        ]

    def chain_of(self, checkpoint: str) -> list[str]:
        """Return the layers of a checkpoint, topmost first."""
        rows = [row for row in self._rows("checkpoint") if row["id"] == checkpoint]
        chain: list[str] = json.loads(rows[0]["chain"])
        return chain

    def _rows(self, table: str) -> list[Row]:
        with closing(sqlite3.connect(f"file:{self._home}/meta.db?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(f"SELECT * FROM {table}")]

    def _wrong_directories(self, layers: list[Row]) -> Iterator[str]:
        for name in os.listdir(self._home / "staging"):
            yield f"left in staging: {name}"
        if (self._home / "lost+found").exists():
            yield f"in lost+found: {os.listdir(self._home / 'lost+found')}"
        wanted = {row["id"]: row for row in layers if row["kind"] != "dir"}
        there = set(os.listdir(self._home / "layers"))
        for name in sorted(there - wanted.keys()):
            yield f"a directory without a row: {name}"
        for name in sorted(wanted.keys() - there):
            yield f"a row without a directory: {wanted[name]}"
        for name in sorted(wanted.keys() & there):
            yield from self._wrong_parts(name, wanted[name])

    def _wrong_parts(self, name: str, row: Row) -> Iterator[str]:
        parts = {"fs", "layer.json"}
        if row["kind"] == "upper" and row["state"] != "sealed":
            parts.add("work")
        try:
            found = set(os.listdir(self._home / "layers" / name))
        except FileNotFoundError:  # it is being deleted at this moment
            found = set()
        if found != parts:
            yield f"layer {name} ({row['state']}) consists of {sorted(found)}"


def _wrong_states(environments: list[Row], layers: list[Row], checkpoints: list[Row]) -> list[str]:
    states = {row["id"]: row["state"] for row in layers if row["state"] != "spare"}
    expected = {layer: {"sealed"} for row in checkpoints for layer in json.loads(row["chain"])}
    for row in environments:
        # An `up` that never came to its end leaves what it built to the next one.
        unfinished = set() if row["wanted"] else {"building"}
        for layer in (*json.loads(row["base"]), *json.loads(row["lowers"])):
            expected.setdefault(layer, {"sealed"} | unfinished)
        expected[row["upper"]] = {"upper"} | unfinished
    for row in layers:
        if row["key"] is not None and row["id"] not in expected:
            expected[row["id"]] = {"sealed"}  # built for an `up` that may be tried again
    return [
        f"layer {layer} is {states.get(layer)}, and should be {expected.get(layer)}"
        for layer in sorted(states.keys() | expected.keys())
        if states.get(layer) not in expected.get(layer, ())
    ]


def _wrong_spares(environments: list[Row], layers: list[Row]) -> Iterator[str]:
    wanted = {row["id"]: row["wanted"] for row in environments}
    spares = [row["env"] for row in layers if row["state"] == "spare"]
    for env in sorted(wanted.keys() | set(spares)):
        count = spares.count(env)
        if count > 1 or (count and env not in wanted) or (not count and wanted[env]):
            yield f"environment {env} (wanted: {wanted.get(env)}) has {count} spare uppers"


def _wrong_fingerprints(
    environments: list[Row], layers: list[Row], fingerprints: list[Row]
) -> Iterator[str]:
    taken = {row["layer"] for row in fingerprints}
    directories = {row["id"] for row in layers if row["kind"] == "dir"}
    mounted = {layer for row in environments if row["wanted"] for layer in json.loads(row["base"])}
    for layer in sorted((directories & mounted) - taken):
        yield f"layer {layer} is mounted and has no fingerprint"
    for layer in sorted(taken - directories):
        yield f"a fingerprint of no layer: {layer}"
