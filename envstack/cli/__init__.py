"""The command line: typer commands, one module a group.

The only room that prints, reads the arguments or exits.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    _fill_standard_streams()
    try:
        # Late, so that Ctrl-C during the imports is met as well.
        from envstack.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _fill_standard_streams() -> None:
    """Open null for descriptors 0 to 2 that are closed, lest a socket becomes standard output."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)
