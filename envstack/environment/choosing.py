"""Whether to exchange the mount, which costs nothing, or to work through the one that stands.

Who has not named a way gets the first where nobody is inside, else the second. Nothing is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from envstack.environment.inside import describe, require_strandable
from envstack.linux.holders import find_holder

if TYPE_CHECKING:
    from envstack.errors import Held
    from envstack.linux.mountinfo import Mount
    from envstack.model import Holder

AUTO = "auto"
"""The mode of who leaves the choice."""


class Asked(Protocol):
    """What a user asked for; `ignore` are the processes that ask, which are no holders."""

    @property
    def mode(self) -> str: ...
    @property
    def force(self) -> bool: ...
    @property
    def ignore(self) -> frozenset[int]: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A mode, and why it is that one: a clause for people."""

    mode: str
    reason: str


def is_free(asked: Asked) -> bool:
    """Tell whether nobody is to be stranded, and either way will do."""
    return asked.mode == AUTO and not asked.force


def choose(mount: Mount, asked: Asked, exchange: str, through: str) -> Choice:
    """Return which of two modes to take: whoever names one, or strands those inside, has chosen."""
    if asked.mode != AUTO:
        return Choice(asked.mode, "asked for")
    if asked.force:
        return Choice(exchange, "--force leaves behind who is inside")
    holder = find_holder(mount, ignore=asked.ignore)
    if holder is not None:
        return Choice(through, describe((holder,)))
    return Choice(exchange, "nobody is inside")


def choose_again(asked: Asked, held: Held, through: str) -> Choice:
    """Return what to do where somebody came after the choice; raises `held` for who had chosen."""
    if not is_free(asked):
        raise held
    return Choice(through, held.message.partition(": ")[2])


def left_behind(mount: Mount, asked: Asked, what: str) -> tuple[Holder, ...]:
    """Return who is left behind by the exchange that was chosen; `what` is it, for the message.

    Where the choice was free it was made because nobody is inside, and all processes were asked for
    that. Raises Held as `require_strandable` does.
    """
    if is_free(asked):
        return ()
    return require_strandable(mount, asked.ignore, what, force=asked.force)
