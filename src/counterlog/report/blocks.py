"""What a page is made of: grids (tables), figures and sections, before any HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from counterlog.core.results import show


@dataclass(frozen=True)
class Grid:
    """A table: `columns` as (heading, what it means), rows of values. Floats are shown to four significant digits."""

    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""
    open: bool = True

    def cells(self) -> list[list[dict[str, Any]]]:
        """Rows of {text, number, value}: the text on the page, and the exact value of numbers."""
        return [[_cell(v) for v in row] for row in self.rows]

    def numeric(self, column: int) -> bool:
        """Whether a column is aligned as numbers."""
        values = [row[column] for row in self.rows if row[column] not in (None, "")]
        return bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


@dataclass(frozen=True)
class Section:
    """A part of the page: sentences, at most one figure (a plotly figure), tables, and a file to download.

    `cards` are (kind, word, what was checked, finding, remedy); `download` is (file name, address, words).
    """

    slug: str
    title: str
    text: tuple[str, ...] = ()
    figure: Any = None
    alt: str = ""
    grids: tuple[Grid, ...] = ()
    download: tuple[str, str, str] | None = None
    cards: tuple[tuple[str, str, str, str, str], ...] = field(default=())


def grid(
    title: str, columns: Sequence[str | tuple[str, str]], rows: Sequence[Sequence[Any]], **rest: Any
) -> Grid:
    """A `Grid` whose columns may go without an explanation."""
    headed = tuple(c if isinstance(c, tuple) else (c, "") for c in columns)
    return Grid(title, headed, tuple(tuple(r) for r in rows), **rest)


def shown(value: float) -> str:
    """A number in a table: four significant digits, and whole from a thousand on."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else show(value)


def _cell(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"text": "yes" if value else "no", "value": ""}
    if isinstance(value, (int, float)):
        return {"text": shown(value), "value": repr(value)}
    return {"text": show(value), "value": ""}
