"""Context columns as numbers: standardised numbers, one-hot categories, gaps marked; learnt once, saved as JSON.

Statistics come from the rows it was fitted on. A category that was not seen then, or that is rarer than the
most frequent
`MOST_CATEGORIES`, has all its indicators zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import LogError, message

Floats = NDArray[np.float64]
MOST_CATEGORIES = 50


@dataclass(frozen=True)
class Column:
    """How one column becomes numbers. `kind` is `number` (with `centre`, `scale`, `gaps`) or `category`."""

    name: str
    kind: str
    centre: float = 0.0
    scale: float = 1.0
    gaps: bool = False
    categories: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns it becomes."""
        if self.kind == "number":
            return (self.name, f"{self.name} missing") if self.gaps else (self.name,)
        return tuple(f"{self.name}={c}" for c in self.categories)


@dataclass(frozen=True)
class Encoder:
    """The encoding of a context. Make one with `Encoder.fit(frame)`."""

    columns: tuple[Column, ...]

    @classmethod
    def fit(cls, frame: pl.DataFrame) -> Encoder:
        """Learn the encoding. Raises `LogError` for a column that is neither number, boolean nor category."""
        return cls(tuple(_fit_column(series) for series in frame.get_columns()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the encoded columns, in order."""
        return tuple(n for c in self.columns for n in c.names)

    def transform(self, frame: pl.DataFrame) -> Floats:
        """(n, d) float64. Raises `LogError` when a column of the encoding is missing."""
        if missing := [c.name for c in self.columns if c.name not in frame.columns]:
            msg = message(f"the log lacks the context column {missing[0]!r} that the model was fitted with")
            raise LogError(msg)
        blocks = [_encode(c, frame[c.name]) for c in self.columns]
        return np.hstack(blocks) if blocks else np.zeros((frame.height, 0))

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values, the inverse of `from_json`."""
        return [{**vars(c), "categories": list(c.categories)} for c in self.columns]

    @classmethod
    def from_json(cls, content: list[dict[str, Any]]) -> Encoder:
        """The inverse of `to_json`. Raises `LogError` for content that encodes nothing."""
        columns = tuple(Column(**{**c, "categories": tuple(c["categories"])}) for c in content)
        for c in columns:
            numbers = np.isfinite([c.centre, c.scale]).all() and c.scale > 0
            texts = all(isinstance(t, str) for t in (c.name, *c.categories))
            if c.kind not in ("number", "category") or not numbers or not texts:
                msg = message(f"the encoding of column {c.name!r} is neither of numbers nor of categories")
                raise LogError(msg)
        return cls(columns)


def _fit_column(series: pl.Series) -> Column:
    if series.dtype.is_numeric():
        values = series.cast(pl.Float64).fill_nan(None)
        centre, scale = values.mean(), values.std(ddof=0)
        return Column(
            series.name,
            "number",
            centre=float(centre) if isinstance(centre, float) else 0.0,
            scale=float(scale) if isinstance(scale, float) and scale > 0 else 1.0,
            gaps=values.null_count() > 0,
        )
    if series.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean):
        counts = series.cast(pl.String).drop_nulls().alias("level").value_counts(sort=True)
        frequent = sorted(counts["level"].head(MOST_CATEGORIES).to_list())
        return Column(series.name, "category", categories=tuple(frequent))
    msg = message(
        f"context column {series.name!r} is of type {series.dtype}",
        expected="numbers, text or booleans",
        hint="derive numbers from it (for a date: weekday, hour), or leave it out",
    )
    raise LogError(msg)


def _encode(column: Column, series: pl.Series) -> Floats:
    if column.kind == "number":
        values = series.cast(pl.Float64, strict=False).fill_nan(None)
        scaled = ((values - column.centre) / column.scale).fill_null(0.0).to_numpy()
        parts = [scaled, values.is_null().cast(pl.Float64).to_numpy()] if column.gaps else [scaled]
        block: Floats = np.column_stack(parts)
        return block
    text = series.cast(pl.String)
    codes = text.replace_strict(
        pl.Series(column.categories, dtype=pl.String),
        pl.Series(range(len(column.categories)), dtype=pl.Int64),
        default=-1,
    ).fill_null(-1)
    indicators: Floats = (codes.to_numpy()[:, None] == np.arange(len(column.categories))).astype(np.float64)
    return indicators
