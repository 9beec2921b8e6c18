"""Stack files: YAML text becomes a checked model whose every fault has a line and a column.

Owns the shape of `envstack.yaml` and the words of its faults; the only room with pydantic and YAML.
Looks at the disk to read the file and to see whether what it names is there; must not change it.

The names below are imported when they are first asked for: pydantic takes a tenth of a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envstack.stackfile.reader import load, parse
    from envstack.stackfile.stack import (
        ArchiveLayer,
        DirLayer,
        Entry,
        RunLayer,
        StackFile,
        differences,
    )

__all__ = [
    "ArchiveLayer",
    "DirLayer",
    "Entry",
    "RunLayer",
    "StackFile",
    "differences",
    "load",
    "parse",
]


def __getattr__(name: str) -> Any:
    match name:
        case "load" | "parse":
            module = "reader"
        case "ArchiveLayer" | "DirLayer" | "RunLayer" | "StackFile" | "differences":
            module = "stack"
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
