"""The user's shell with a mark in its prompt that tells where one is; no file of theirs changes.

bash, zsh and fish read a file of ours beside the user's own (`shells/`); any other shell finds the
mark in PS1.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FILES = os.path.join(os.path.dirname(os.path.abspath(os.fsencode(__file__))), b"shells")
"""The directory with what the shells read."""

_MARK = b"(${ENVSTACK_ENV}) "
_PLAIN = b"# "
"""What is usual where a shell has told nothing else: whoever runs envstack is root."""


@dataclass(frozen=True, slots=True)
class Shell:
    """A shell with its arguments, and the variables that it needs."""

    words: tuple[bytes, ...]
    variables: dict[bytes, bytes] = field(default_factory=dict)


def marked(shell: bytes, files: bytes, environ: Mapping[bytes, bytes]) -> Shell:
    """Return `shell` with a mark; it finds `FILES` at `files`, and will have `environ`."""
    match os.path.basename(shell):
        case b"bash":
            return Shell((shell, b"--rcfile", os.path.join(files, b"prompt.bash")))
        case b"zsh":
            own = {b"ENVSTACK_ZDOTDIR": environ[b"ZDOTDIR"]} if b"ZDOTDIR" in environ else {}
            return Shell((shell,), {b"ZDOTDIR": os.path.join(files, b"zsh"), **own})
        case b"fish":
            script = os.path.join(files, b"prompt.fish")
            quoted = script.replace(b"\\", b"\\\\").replace(b"'", b"\\'")
            return Shell((shell, b"--init-command", b"source '%s'" % quoted))
    return Shell((shell,), {b"PS1": _MARK + environ.get(b"PS1", _PLAIN)})
