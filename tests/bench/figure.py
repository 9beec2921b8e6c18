"""What every figure is: something measured at some sizes, and printed as one table.

Owns the shape of a figure and of its table. How a thing is measured is its own module's business.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Medians = Mapping[str, float]
"""What was measured, in the order of its rows, in the figure's unit; the first is the reference."""

Measure = Callable[[Path, int, int], Medians]
"""Measures in an empty directory, at a size, in so many rounds."""


@dataclass(frozen=True)
class Figure:
    """A figure. `sizes` and `quick` say at which sizes it is measured, and in how many rounds.

    `programs` it cannot do without; without one of `optional`, a row is missing.
    """

    title: str
    measure: Measure
    counted: str
    sizes: Mapping[int, int]
    quick: Mapping[int, int]
    unit: str = "ms"
    programs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def missing(programs: tuple[str, ...]) -> list[str]:
    """Return those of `programs` that this machine lacks."""
    return [name for name in programs if shutil.which(name) is None]


def table(figure: Figure, columns: Mapping[int, Medians]) -> Iterator[str]:
    """Yield the lines of a table: a row for each thing measured, a column for each size.

    A cell is a median, and how many times the reference that is, in the same column.
    """
    names = list(dict.fromkeys(name for medians in columns.values() for name in medians))
    stub = max(map(len, names))
    cells = {name: [_cell(medians, name) for medians in columns.values()] for name in names}
    heads = [f"{size:,} {figure.counted}" for size in columns]
    wide = max(len(text) for texts in [heads, *cells.values()] for text in texts)
    yield " ".join([f"{figure.unit:{stub}}", *(f"{head:>{wide}}" for head in heads)])
    for name, texts in cells.items():
        yield " ".join([f"{name:{stub}}", *(f"{text:>{wide}}" for text in texts)])


def _cell(medians: Medians, name: str) -> str:
    if name not in medians:
        return "-"
    value = medians[name]
    reference = next(iter(medians.values()))
    return f"{_number(value):>8} {f'({_number(value / reference)}x)':>9}"


def _number(value: float) -> str:
    """Return three digits that count, and all that stand before the point."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"
