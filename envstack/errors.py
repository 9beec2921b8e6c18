"""Every error that envstack means to show a user, as one tree.

    EnvstackError            1  failed
    +- CommandFailed         1  the command of a layer; carries its last lines
    +- TooLarge              1  more than the limits of `config.yaml` let in
    +- UsageError            2  wrong usage
    |  +- StackFileError     2  the stack file is at fault; carries every fault
    +- NotFound              3  no such thing
    +- StateError            4  not in a state for that
    |  +- NotUp              4
    |  +- Held               4  somebody is inside; carries the holders
    |  +- Untrusted          4  commands, addresses that nobody has said yes to; carries them
    +- Unsupported           5  this machine cannot do that
    +- Damaged               6  damaged data, or a newer store
    |  +- Unsafe             6  an archive that reaches out of its place, or brings what it must not
    +- NoDaemon              7  no daemon to talk to
    +- Cancelled           130  the request was cancelled

Each carries a brief (its message), a hint what to do, a kind for programs and an exit code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envstack.model import Holder, Terms


class EnvstackError(Exception):
    """The root. `message` is one sentence, `hint` one more, or empty, on what to do about it."""

    kind: str = "failed"
    exit_code: int = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def details(self) -> dict[str, Any]:
        """Return what stands beside kind, message and hint in the JSON form of this error."""
        return {}


class UsageError(EnvstackError):
    kind = "usage"
    exit_code = 2


class StackFileError(UsageError):
    """`message` is the whole report: one `FILE:LINE:COLUMN: what` block a fault."""

    kind = "stack-file"

    def __init__(
        self, message: str, hint: str = "", faults: tuple[dict[str, Any], ...] = ()
    ) -> None:
        super().__init__(message, hint)
        self.faults = faults

    def details(self) -> dict[str, Any]:
        return {"faults": list(self.faults)}


class NotFound(EnvstackError):
    kind = "not-found"
    exit_code = 3


class StateError(EnvstackError):
    kind = "state"
    exit_code = 4


class NotUp(StateError):
    kind = "not-up"


class Held(StateError):
    """Somebody is inside the merged tree, and the operation would strand or harm them."""

    kind = "held"

    def __init__(self, message: str, hint: str = "", holders: tuple[Holder, ...] = ()) -> None:
        super().__init__(message, hint)
        self.holders = holders


class Untrusted(StateError):
    """A stack file would run or fetch what nobody has said yes to; `terms` says what."""

    kind = "untrusted"

    def __init__(self, message: str, hint: str, terms: Terms) -> None:
        super().__init__(message, hint)
        self.terms = terms


class CommandFailed(EnvstackError):
    """The command of a layer ended with something else than success; `output` is its end."""

    kind = "command-failed"

    def __init__(self, message: str, hint: str, output: str) -> None:
        super().__init__(message, hint)
        self.output = output

    def details(self) -> dict[str, Any]:
        return {"output": self.output}


class TooLarge(EnvstackError):
    """The hint names the key of `config.yaml` that lets more in."""

    kind = "too-large"


class Unsupported(EnvstackError):
    kind = "unsupported"
    exit_code = 5


class Damaged(EnvstackError):
    kind = "damaged"
    exit_code = 6


class Unsafe(Damaged):
    """An archive, or an image layer, holds what no layer is made of; nothing of it is kept."""

    kind = "unsafe"


class NoDaemon(EnvstackError):
    kind = "no-daemon"
    exit_code = 7


class Cancelled(EnvstackError):
    kind = "cancelled"
    exit_code = 130
