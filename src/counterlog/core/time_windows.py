"""A log's time as numbers, and cut into windows: rows of equal time stay together."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import LogError, message
from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


def parsed_time(log: Rounds) -> pl.Series:
    """The time column; text that reads as dates becomes dates. Raises `LogError` when the log has no time."""
    if log.time_column is None:
        msg = message("the log has no time column", hint="name it: Rounds(..., time='column')")
        raise LogError(msg)
    column = log.table[log.time_column]
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = column.cast(pl.String)
        for kind in (pl.Datetime, pl.Date):
            try:
                return text.str.strptime(kind, strict=True)
            except pl.exceptions.PolarsError:
                continue
        return text
    return column


def time_values(log: Rounds) -> Floats:
    """(n,) time as numbers: seconds for dates and date-times, ranks for text that is no date, else the numbers."""
    column = parsed_time(log)
    if column.dtype.is_temporal():
        if isinstance(column.dtype, pl.Date):
            return column.cast(pl.Int64).to_numpy().astype(np.float64) * 86_400.0
        unit = getattr(column.dtype, "time_unit", "ns") or "ns"
        return column.cast(pl.Int64).to_numpy() / {"ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
    if column.dtype == pl.String:
        return column.rank("dense").to_numpy().astype(np.float64)
    return column.cast(pl.Float64).to_numpy().astype(np.float64)


def windows(values: Floats, count: int) -> Codes:
    """(n,) window of every row: at most `count` windows of about equal size in time order, ties kept together."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.searchsorted(ordered, ordered, side="left")
    raw = first * count // max(len(values), 1)
    code = np.empty(len(values), dtype=np.int64)
    code[order] = np.unique(raw, return_inverse=True)[1]
    return code


def window_starts(log: Rounds, window: Codes) -> list[str]:
    """The first time in each window, as text."""
    shown = parsed_time(log)
    starts = (
        pl.DataFrame({"w": window, "t": shown}).group_by("w").agg(pl.col("t").min()).sort("w")["t"].to_list()
    )
    return [f"{s:%Y-%m-%d %H:%M}" if hasattr(s, "hour") else str(s) for s in starts]


def periods(log: Rounds, count: int) -> tuple[NDArray[np.int64], list[str]]:
    """(n,) the calendar day of every row when time is a date and the log spans more than 4 days, else one of `count`
    periods of equal length; and their starts. Empty periods are left out."""
    shown = parsed_time(log)
    if shown.dtype in (pl.Date, pl.Datetime) or isinstance(shown.dtype, pl.Datetime):
        date = shown.cast(pl.Date)
        if date.n_unique() > 4:
            values = date.unique().sort()
            return (date.rank("dense").cast(pl.Int64) - 1).to_numpy(), [str(d) for d in values]
    x = time_values(log)
    width = (x.max() - x.min()) / count or 1.0
    raw = np.minimum(((x - x.min()) / width).astype(np.int64), count - 1)
    kept, code = np.unique(raw, return_inverse=True)
    starts = (
        pl.DataFrame({"w": code, "t": shown}).group_by("w").agg(pl.col("t").min()).sort("w")["t"].to_list()
    )
    return code.astype(np.int64), [str(s) for s in starts[: len(kept)]]
