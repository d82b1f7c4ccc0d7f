"""The log cut by its segments: names, codes, and differences between two policies within each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.buckets import BucketTable
from counterlog.core.derive import difference
from counterlog.core.errors import SupportError
from counterlog.core.rounds import Rounds
from counterlog.report.contest import Contest

MOST_LEVELS = 12
FEW_VALUES = 8
MOST_COLUMNS = 2
REST = "(all others)"


@dataclass(frozen=True, kw_only=True)
class SegmentGap:
    """One policy minus another within a segment, in `unit` per decision; each interval stands alone."""

    column: str
    level: str
    rows: int
    first: str
    second: str
    value: float
    lo: float
    hi: float
    unit: str


def with_segments(log: Rounds) -> Rounds:
    """The log itself when it names segments; otherwise with up to two context columns that have few values."""
    if log.segment_columns:
        return log
    few = [
        c
        for c in log.context_columns
        if not log.table[c].dtype.is_float()
        and not log.table[c].null_count()
        and 2 <= log.table[c].n_unique() <= FEW_VALUES
    ]
    return log.copy_with(segment=tuple(few[:MOST_COLUMNS])) if few else log


def segment_codes(log: Rounds, column: str) -> tuple[NDArray[np.int64], list[str]]:
    """(n,) codes of a segment column and the names of its levels, the most frequent first and the rest together."""
    text = log.table[column].cast(pl.String).fill_null("(empty)").alias("level")
    found = text.value_counts().sort(["count", "level"], descending=[True, False])["level"].to_list()
    names = found[:MOST_LEVELS]
    places = pl.Series(range(len(names)), dtype=pl.Int64)
    codes = text.replace_strict(pl.Series(names, dtype=pl.String), places, default=len(names))
    return codes.to_numpy(), [*names, *([REST] if len(found) > len(names) else [])]


def segment_gaps(
    log: Rounds, held: Contest, buckets: BucketTable, first: str, second: str, *, level: float = 0.95
) -> tuple[SegmentGap, ...]:
    """Paired differences within every frequent segment of the table that both policies can be valued in."""
    made = []
    for column in log.segment_columns:
        present = {name for group, name in buckets.groups if group == column}
        codes, names = segment_codes(log, column)
        sizes = np.bincount(codes, minlength=len(names))
        for name, rows in zip(names, sizes, strict=True):
            if name not in present or name == REST:
                continue
            cells = (held.cell(first), held.cell(second))
            try:
                gap, ends = difference(buckets, *cells, level=level, group=(column, name))
            except SupportError:
                continue
            made.append(
                SegmentGap(
                    column=column,
                    level=name,
                    rows=int(rows),
                    first=first,
                    second=second,
                    value=gap,
                    lo=ends.lo,
                    hi=ends.hi,
                    unit=log.reward_unit,
                )
            )
    return tuple(made)
