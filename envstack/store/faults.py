"""What the errors of a database mean to a user: SQLite's own words say little of a full disk."""

from __future__ import annotations

import os

from envstack.errors import EnvstackError
from envstack.store.ballast import free

_LITTLE_SPACE = 1 << 18
"""Bytes: with less than this free, space is what an error of a database is about."""


def unusable(what: str, directory: bytes, error: Exception) -> EnvstackError:
    """Explain an error of `what`, which lies in `directory`.

    On a full file system SQLite calls some errors `disk I/O error`.
    """
    if free(directory) < _LITTLE_SPACE:
        return without_space(directory, str(error))
    return EnvstackError(
        f"{what} cannot be used: {error}", f"look at the file system of {os.fsdecode(directory)}"
    )


def without_space(directory: bytes, why: str) -> EnvstackError:
    """Say that there is no space left for what is written to `directory`."""
    return EnvstackError(
        f"no space left on the file system of {os.fsdecode(directory)} ({why})",
        "free some space there, and try again",
    )
