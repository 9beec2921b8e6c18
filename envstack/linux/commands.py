"""What is said between the daemon, its launcher and the process that runs a command.

Owns the form of requests and answers, and nothing that acts on them. A request is one datagram with
four descriptors; its words travel in a file in memory, because a datagram holds far less than an
environment may (`net.core.wmem_max`, 200 KB). Answers are datagrams on a socket of the command's
own, each one of the words below and what belongs to it.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import NamedTuple

from envstack.errors import UsageError

START = b"start"
"""Comes with the descriptors of a request."""

BORN = b"born"
"""Comes with a pidfd of the process that everything the command starts ends with."""

STARTED = b"started"
FAILED = b"failed"
"""The command could not be started; the reason, in words, follows."""

ENDED = b"ended"
"""The status follows: the exit code, or less than 0 for a signal."""

ANSWER_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Command:
    """A program and its arguments, run where `mount` is attached at the directory `point`.

    `mount` is a descriptor of a detached mount, and serves one command alone. The program is looked
    for in the PATH of `environ`.
    """

    argv: tuple[bytes, ...]
    environ: dict[bytes, bytes]
    mount: int
    point: bytes


class Descriptors(NamedTuple):
    """What a request carries: `words` is the file that `packed` was written to.

    The launcher closes its copies in this order.
    """

    words: int
    mount: int
    output: int
    control: int


def packed(command: Command) -> bytes:
    """Return the words of a command. Raises UsageError for a NUL, which execve(2) cannot take."""
    variables = [name + b"=" + value for name, value in command.environ.items()]
    words = [command.point, b"%d" % len(command.argv), *command.argv, *variables]
    if any(b"\0" in word for word in words):
        raise UsageError("a command, its directory and its environment cannot hold a NUL byte")
    return b"\0".join(words)


def unpacked(descriptors: Descriptors) -> Command:
    """Return the command that a request is about."""
    content = os.pread(descriptors.words, os.fstat(descriptors.words).st_size, 0)
    point, count, *words = content.split(b"\0")
    argv, variables = words[: int(count)], words[int(count) :]
    pairs = (variable.partition(b"=") for variable in variables)
    environ = {name: value for name, _, value in pairs}
    return Command(tuple(argv), environ, descriptors.mount, point)


def received(connection: socket.socket, count: int) -> tuple[bytes, list[int]]:
    """Wait for a datagram; return it, empty at the end, and up to `count` descriptors with it."""
    said, descriptors, _, _ = socket.recv_fds(connection, ANSWER_BYTES, count)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # Python drops the flag that asks the kernel for it
    return said, list(descriptors)


def answer(word: bytes, rest: str) -> bytes:
    """Return a datagram of one word and what belongs to it."""
    return (word + b" " + rest.encode("utf-8", "backslashreplace"))[:ANSWER_BYTES]


def reason(error: Exception) -> str:
    """Return why something failed, on one line, and what it failed on."""
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    if error.filename is None:
        return str(error.strerror)
    return f"{error.strerror}: {os.fsdecode(error.filename)}"
