"""The bucket table: the small result of one scan, from which every value, interval and contrast is derived.

Each unit (row, or cluster such as a user) falls into one of `BUCKETS` buckets by a hash of its key. For
every cell (policy, estimator, reward) the scan keeps, by bucket, the sums of the cell's terms and, for rows
that are their own units, of their products. Sums are associative: tables of two days, files or machines are
merged by adding them. Nothing of a row survives.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import CounterlogError, message
from counterlog.core.estimators import Parts
from counterlog.core.files import write_whole
from counterlog.core.intervals import BUCKETS
from counterlog.core.terms import Term, distinct

Floats = NDArray[np.float64]
PARTS = ("mean", "top", "bottom")
FORMAT = "counterlog-buckets-1"
UNITS_A_BUCKET = 50  # with fewer units than this for every bucket, each unit has a bucket of its own
PRIME = 2_147_483_647
_ROUNDS = ((48_271, 11), (69_621, 7_919))
_SQUARE = 1_048_573  # a prime: its product with a code stays below 2^63
ROW_BUCKETS = 1_024  # for rows that are their own units, whose spread is that of exact second moments
_STEP, _CIRCLE = 126_907, 1_048_576  # periods up to 1,024 spread as evenly as by chance, or more so


@dataclass(frozen=True)
class Cell:
    """One (policy, estimator, reward): the columns `c{index}_...` of the table belong to it.

    `weighted` is False for an estimator that needs no weights, such as the direct method.
    """

    index: int
    policy: str
    estimator: str
    reward: str
    unit: str
    terms: tuple[str, ...]
    weights: int
    notes: tuple[str, ...] = ()
    weighted: bool = True


@dataclass(frozen=True)
class BucketTable:
    """`frame` has one row a (group, level, bucket); group "" is the whole log, any other a segment column.

    `clustered`: buckets hold units of several rows, so the spread is taken between buckets; otherwise second moments of
    rows are kept; `exact` when every bucket is one unit. `label` says where the propensities came from.
    """

    frame: pl.DataFrame
    cells: tuple[Cell, ...]
    clustered: bool
    label: str = "logged"
    exact: bool = False
    dropped: tuple[dict[str, str], ...] = field(default=())

    @cached_property
    def groups(self) -> tuple[tuple[str, str], ...]:
        """(segment column, level) pairs, the whole log ("", "") first."""
        return tuple(self.frame.select("group", "level").unique().sort("group", "level").iter_rows())

    def part(self, group: tuple[str, str] = ("", "")) -> pl.DataFrame:
        """The buckets of one group."""
        chosen = (pl.col("group") == group[0]) & (pl.col("level") == group[1])
        return self.frame.filter(chosen).sort("bucket")

    def __add__(self, other: BucketTable) -> BucketTable:
        """The table of both logs together. Raises `CounterlogError` when they answer different questions."""
        if self.cells != other.cells or self.clustered != other.clustered:
            msg = message(
                "the two results do not hold the same policies, estimators and rewards",
                hint="evaluate both logs with the same settings before adding",
            )
            raise CounterlogError(msg)
        exact = self.exact and other.exact and self._units_with(other) < UNITS_A_BUCKET * BUCKETS
        both = pl.concat([t.frame if t.exact == exact else t._hashed() for t in (self, other)])
        peaks = [c for c in both.columns if c.endswith("_wmax")]
        sums = [c for c in both.columns if c not in (*peaks, "group", "level", "bucket")]
        keys = ["group", "level", "bucket"]
        frame = both.group_by(keys).agg(pl.col(sums).sum(), pl.col(peaks).max()).sort(keys)
        frame = _gathered(frame, [c for c in sums if c != "n" and not _is_fine(c)], peaks)
        label = self.label if self.label == other.label else f"{self.label} and {other.label}"
        return BucketTable(
            frame.select(self.frame.columns), self.cells, self.clustered, label, exact, self.dropped
        )

    def _units_with(self, other: BucketTable) -> int:
        """Distinct units of two tables that hold one a bucket."""
        return pl.concat([self.part()["bucket"], other.part()["bucket"]]).n_unique()

    def _hashed(self) -> pl.DataFrame:
        """The rows of a table of single units under the buckets that a larger log puts these units in."""
        bucket = bucket_expression(nw.col("bucket"), BUCKETS)
        return nw.from_native(self.frame).with_columns(bucket=bucket).to_native()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write Parquet with the plan in its metadata, whole or not at all."""
        import io

        import pyarrow.parquet as pq

        plan = {
            "format": FORMAT,
            "clustered": self.clustered,
            "label": self.label,
            "exact": self.exact,
            "cells": [asdict(c) for c in self.cells],
            "dropped": list(self.dropped),
        }
        arrow = self.frame.to_arrow()
        arrow = arrow.replace_schema_metadata({b"counterlog": json.dumps(plan).encode()})
        buffer = io.BytesIO()
        pq.write_table(arrow, buffer)
        return write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BucketTable:
        """Read what `save` wrote. Raises `CounterlogError` for any other file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            arrow = pq.read_table(os.fspath(path))
            plan = json.loads((arrow.schema.metadata or {})[b"counterlog"])
            cells = tuple(
                Cell(**{**c, "terms": tuple(c["terms"]), "notes": tuple(c["notes"])}) for c in plan["cells"]
            )
            frame = pl.DataFrame(arrow.replace_schema_metadata(None))
            kind = (bool(plan["clustered"]), str(plan["label"]), bool(plan["exact"]))
            return cls(frame, cells, *kind, tuple(plan["dropped"]))
        except (OSError, KeyError, ValueError, TypeError, pa.ArrowInvalid) as cause:
            msg = message(
                f"{os.fspath(path)!r} is not a saved evaluation ({cause})",
                hint="give a file that save() wrote",
            )
            raise CounterlogError(msg) from cause


def unit_code(key: nw.Expr) -> nw.Expr:
    """0 to 2^31 - 2 from an integer key, by two multiply-add rounds modulo a prime: equal on every engine."""
    code = key.abs() % PRIME
    for factor, shift in _ROUNDS:
        code = (code * factor + shift) % PRIME
    return code


def row_code(number: nw.Expr) -> nw.Expr:
    """The same from the number of a row that is its own unit.

    Mixed by a square, so that a log that repeats itself every few rows does not repeat itself in the buckets.
    """
    factor, shift = _ROUNDS[0]
    code = (number % PRIME * factor + shift) % PRIME
    return (code * (code % _SQUARE) + shift) % PRIME


def bucket_expression(key: nw.Expr, buckets: int) -> nw.Expr:
    """Bucket of an integer key."""
    return unit_code(key) % buckets


def row_bucket(number: nw.Expr) -> nw.Expr:
    """One of `ROW_BUCKETS` for a row that is its own unit, from its number, at the price of one multiplication.

    Rows step round a circle: buckets are equal in size, and in a log that repeats itself every few rows each of these
    still reaches all of them alike.
    """
    return number * _STEP % _CIRCLE // (_CIRCLE // ROW_BUCKETS)


def cell_columns(index: int, parts: Parts, *, products: bool) -> dict[str, Term]:
    """The columns to be summed for one cell: its terms and, if asked, their products."""
    present = {name: term for name in PARTS if (term := getattr(parts, name)) is not None}
    columns = {f"c{index}_{name}": term for name, term in present.items()}
    if products:
        names = list(present)
        for i, first in enumerate(names):
            for second in names[i:]:
                columns[f"c{index}_{first}*{second}"] = present[first] * present[second]
    return columns


def scan(
    frame: nw.LazyFrame[Any],
    columns: dict[str, Term],
    peaks: dict[str, Term],
    bucket: nw.Expr | None,
    *,
    facts: Mapping[str, nw.Expr] | None = None,
    group: str = "",
    streaming: bool = False,
) -> pl.DataFrame:
    """Sums of `columns`, maxima of `peaks` and n, for every level of the segment column `group`.

    `facts` are further aggregates of the whole log, such as the least value of a column; they need `group` empty.

    Terms, weights and n are summed by bucket. Second moments and maxima belong to the whole level, which costs a
    fraction of that: they stand in the level's first bucket, with 0 in the others, so that tables still merge by
    adding. With `bucket` None a level has one row. Equal formulas are summed once. Everything is float64 before it is
    summed. `streaming` needs no memory for the rows and half the time, but adds them in an order of its own: its sums
    agree to about 1e-13, not to the last digit.
    """
    summed, place = distinct(columns)
    level = {"level": nw.col(group)} if group else {}
    fine = {} if bucket is None else {name: e for name, e in summed.items() if _is_fine(name)}
    coarse = {name: e for name, e in summed.items() if name not in fine}
    highest = {name: term.expression for name, term in peaks.items()}
    counted = [nw.len().alias("n"), *(nw.col(name).sum() for name in fine)]
    alone = counted if bucket is None else []
    if group:
        totals = [*(nw.col(name).sum() for name in coarse), *(nw.col(name).max() for name in highest), *alone]
        lazy = frame.select(**level, **coarse, **highest).group_by("level").agg(*totals)
    else:  # without making the columns first: a fifth less time
        totals = [*(e.sum().alias(name) for name, e in coarse.items()), *alone]
        more = [e.alias(name) for name, e in (facts or {}).items()]
        lazy = frame.select(*totals, *(e.max().alias(name) for name, e in highest.items()), *more)
    table = _collected(lazy, streaming)
    if bucket is None:
        table = table.with_columns(bucket=pl.lit(0, pl.Int64))
    else:
        keyed = frame.select(**level, bucket=bucket, **fine).group_by(*level, "bucket").agg(*counted)
        table = _with_totals(_collected(keyed, streaming), table)
    repeated = {name: pl.col(first) for name, first in place.items() if name != first}
    named = pl.col("level").cast(pl.String) if group else pl.lit("")
    labels = {"group": pl.lit(group), "level": named, "n": pl.col("n").cast(pl.Float64)}
    ordered = table.with_columns(**labels, **repeated)
    return ordered.select("group", "level", "bucket", "n", *columns, *peaks, *(facts or {})).sort(
        "level", "bucket"
    )


def _is_fine(name: str) -> bool:
    """Whether a summed column is kept by bucket: the terms and the weights are, second moments are not."""
    return name.rpartition("_")[2] in ("sum", *PARTS)


def _collected(lazy: nw.LazyFrame[Any], streaming: bool) -> pl.DataFrame:
    """The frame in memory."""
    native = lazy.to_native()
    if isinstance(native, pl.LazyFrame):
        return native.collect(engine="streaming" if streaming else "in-memory")
    found: pl.DataFrame = lazy.collect("polars").to_native()
    return found


def _with_totals(buckets: pl.DataFrame, totals: pl.DataFrame) -> pl.DataFrame:
    """The buckets of every level, and the level's totals in its first bucket, 0 in the others."""
    level = [name for name in ("level",) if name in totals.columns]
    least = pl.col("bucket").min()
    first = pl.col("bucket") == (least.over(level) if level else least)
    both = buckets.join(totals, on=level) if level else buckets.join(totals, how="cross")
    names = [name for name in totals.columns if name not in level]
    return both.with_columns(pl.when(first).then(pl.col(names)).otherwise(0))


def _gathered(frame: pl.DataFrame, sums: list[str], peaks: list[str]) -> pl.DataFrame:
    """The totals of every level moved into its first bucket, after tables with different first buckets were added."""
    over = ["group", "level"]
    first = pl.col("bucket") == pl.col("bucket").min().over(over)
    totals = [pl.col(sums).sum().over(over), pl.col(peaks).max().over(over)]
    return frame.with_columns(pl.when(first).then(total).otherwise(0) for total in totals)


def column_matrix(frame: pl.DataFrame, cell: Cell) -> Floats:
    """(buckets, 3) sums of mean, top, bottom; a part the cell lacks is 0, and its bottom then 1 a row."""
    out = np.zeros((frame.height, 3))
    for j, name in enumerate(PARTS):
        if name in cell.terms:
            out[:, j] = frame[f"c{cell.index}_{name}"].to_numpy()
        elif name == "bottom":
            out[:, j] = frame["n"].to_numpy()
    return out


def product_matrix(frame: pl.DataFrame, cell: Cell) -> Floats:
    """(3, 3) sums over all rows of the products of mean, top and bottom, absent parts as in `column_matrix`."""
    sums, n = column_matrix(frame, cell).sum(axis=0), float(frame["n"].sum())
    out = np.zeros((3, 3))
    for i, first in enumerate(PARTS):
        for j in range(i, 3):
            second = PARTS[j]
            if first in cell.terms and second in cell.terms:
                out[i, j] = float(frame[f"c{cell.index}_{first}*{second}"].sum())
            elif second == "bottom" and second not in cell.terms:
                out[i, j] = n if first == "bottom" else sums[i]
            out[j, i] = out[i, j]
    return out
