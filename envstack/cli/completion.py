"""`completion bash|zsh|fish`: scripts by which shells complete, and the answers they ask for.

A script calls the program with `_ENVSTACK_COMPLETE` set and the words typed so far, the one under
the cursor last; the answer is one suggestion a line, as `suggestions` describes them. Somebody
waits for it with a finger on a key, so it must be quick, and silent whatever goes wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from envstack.cli.command import Json, begin
from envstack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VARIABLE = "_ENVSTACK_COMPLETE"

_SHELLS = ("bash", "zsh", "fish")

_Shell = Annotated[str, typer.Argument(metavar="|".join(_SHELLS), hidden=True)]


def completion(ctx: typer.Context, shell: _Shell = "", json: Json = False) -> None:
    """Print what makes a shell complete commands and tags.

    \b
    Examples:
      eval "$(envstack completion bash)"       # in ~/.bashrc
      source <(envstack completion zsh)        # in ~/.zshrc, after compinit
      envstack completion fish | source        # in ~/.config/fish/config.fish
    """
    from importlib import resources

    out = begin(ctx, json)
    if shell not in _SHELLS:
        raise UsageError(f"completion is for {', '.join(_SHELLS)}", "envstack completion bash")
    files = resources.files("envstack.cli").joinpath("shells")
    script = files.joinpath(f"completion.{shell}").read_text(encoding="utf-8")
    out.show({"shell": shell, "script": script}, script.splitlines())


def answers(program: Any, typed: Sequence[str]) -> Iterator[str]:
    """Yield what may stand in place of the last word of `typed`, one line each."""
    from envstack.cli.suggestions import suggest

    for value, help_text in suggest(program, typed[:-1], typed[-1] if typed else ""):
        yield f"{value}\t{help_text}" if help_text else value
