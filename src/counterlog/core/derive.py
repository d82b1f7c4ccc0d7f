"""From a bucket table to estimates: the value, its interval and whether the interval deserves its level.

Only the bucket sums are read. Rows that are their own units use exact second moments; clusters use the spread between
buckets, each of which holds whole units.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core import intervals
from counterlog.core.buckets import BucketTable, Cell, column_matrix, product_matrix
from counterlog.core.errors import ConfigError, CounterlogError, SupportError, message
from counterlog.core.intervals import Interval, Moments
from counterlog.core.moments import heaviest_share
from counterlog.core.results import Estimate

Floats = NDArray[np.float64]
INTERVALS = ("t", "bootstrap", "bca", "hoeffding", "bernstein", "asymptotic-cs")
REPLICATES = 1000
LEANS, RESTS = 0.05, 0.25  # largest share of the spread in one bucket: noted, and no longer trusted


def derive(
    table: BucketTable,
    *,
    level: float = 0.95,
    interval: str = "t",
    bounds: tuple[float, float] | None = None,
    rng: int = 0,
) -> tuple[Estimate, ...]:
    """Every cell of every group as an `Estimate`; policies that had no value come last, with their reason.

    `bounds` are those of one row's term (reward bounds times the largest possible weight), for `hoeffding`
    and `bernstein`. Raises `SupportError` when no row of the whole log carries weight for a cell,
    `ConfigError` for an unknown interval.
    """
    if interval not in INTERVALS:
        msg = message(f"{interval!r} is not an interval", expected=f"one of {', '.join(INTERVALS)}")
        raise ConfigError(msg)
    out: list[Estimate] = []
    for column, segment in table.groups:
        part = table.part((column, segment))
        name = f"{column}={segment}" if column else ""
        draws = None
        if interval in ("bootstrap", "bca") and part.height > 1:
            draws = intervals.poisson_multiplicities(part.height, REPLICATES, rng=rng)
        for cell in table.cells:
            try:
                out.append(_estimate(table, part, cell, name, level, interval, bounds, draws))
            except SupportError as cause:
                if not name:
                    raise
                out.append(_without_value(cell.policy, cell.estimator, cell.reward, name, level, cause))
    out.extend(_without_value(d["policy"], "", d["reward"], "", level, d["reason"]) for d in table.dropped)
    return tuple(out)


def moments_of(table: BucketTable, part: pl.DataFrame, cell: Cell) -> Moments:
    """Moments per independent unit: of rows from their second moments, of clusters from the buckets that hold them."""
    terms = column_matrix(part, cell)
    if table.clustered:
        return Moments.from_units(*_with_size(part, cell).T)
    keep = [i for i, name in enumerate(("mean", "top", "bottom")) if name in cell.terms]
    products = product_matrix(part, cell)[np.ix_(keep, keep)]
    return Moments.from_sums(int(part["n"].sum()), terms.sum(axis=0)[keep], products)


def influences(table: BucketTable, cell: Cell, group: tuple[str, str] = ("", "")) -> Floats:
    """(buckets,) centred influence of each bucket on the cell's value; pair two policies' for their difference."""
    return intervals.influence(*_with_size(table.part(group), cell).T)


def difference(
    table: BucketTable, first: Cell, second: Cell, *, level: float = 0.95, group: tuple[str, str] = ("", "")
) -> tuple[float, Interval]:
    """First minus second with its paired interval, from the buckets both policies share."""
    units = [_with_size(table.part(group), cell).T for cell in (first, second)]
    values = [intervals.value(Moments.from_units(*columns)) for columns in units]
    moves = [intervals.influence(*columns) for columns in units]
    return intervals.difference(values[0], moves[0], values[1], moves[1], level=level)


def _with_size(part: pl.DataFrame, cell: Cell) -> Floats:
    """(buckets, 4) sums of mean, top, bottom, and rows."""
    return np.column_stack([column_matrix(part, cell), part["n"].to_numpy()])


def _estimate(
    table: BucketTable,
    part: pl.DataFrame,
    cell: Cell,
    segment: str,
    level: float,
    interval: str,
    bounds: tuple[float, float] | None,
    draws: intervals.Multiplicities | None,
) -> Estimate:
    moments = moments_of(table, part, cell)
    value = intervals.value(moments)
    rows = int(part["n"].sum())
    ess, peak, _ = weight_summary(part, cell.weights)
    if cell.weighted and peak == 0:
        msg = message(f"no logged decision in {segment or 'the log'} agrees with policy {cell.policy!r}")
        raise SupportError(msg)
    if moments.n < 2:
        msg = message(f"{segment or 'the log'} has one independent unit, and an interval needs at least 2")
        raise SupportError(msg)
    ends = _interval(moments, part, cell, level, interval, bounds, draws, clustered=table.clustered)
    se = intervals.standard_error(moments)
    moves = intervals.influence(*_with_size(part, cell).T)
    heaviest = heaviest_share(moves) if len(moves) > intervals.FEWEST_EFFECTIVE else 0.0
    valid, reason = intervals.adequate(ess, rows, se)
    notes = cell.notes
    if heaviest > max(LEANS, 4 * math.log(len(moves)) / len(moves)):  # twice what normal terms would show
        notes += (f"one bucket of rows carries {heaviest:.0%} of the spread: a heavy tail, see the audit",)
    if valid and heaviest > RESTS:
        valid, reason = False, f"one bucket of rows carries {heaviest:.0%} of the spread, above {RESTS:.0%}"
    return Estimate(
        value=value,
        lo=ends.lo,
        hi=ends.hi,
        unit=cell.unit,
        n=moments.n,
        se=se,
        level=level,
        interval=interval,
        policy=cell.policy,
        estimator=cell.estimator,
        reward=cell.reward,
        segment=segment,
        ess=ess,
        valid=valid,
        reason=reason,
        notes=notes,
    )


def _interval(
    moments: Moments,
    part: pl.DataFrame,
    cell: Cell,
    level: float,
    interval: str,
    bounds: tuple[float, float] | None,
    draws: intervals.Multiplicities | None,
    *,
    clustered: bool,
) -> Interval:
    if interval == "t":
        return intervals.t_interval(moments, level)
    if interval == "asymptotic-cs":
        return intervals.asymptotic_cs(moments, level)
    if interval in ("bootstrap", "bca"):
        kind: Literal["bca", "percentile"] = "bca" if interval == "bca" else "percentile"
        counts = part["n"].to_numpy()
        return intervals.bootstrap(
            column_matrix(part, cell), counts, level=level, method=kind, multiplicities=draws
        )
    if clustered:
        msg = message(
            f"{interval} bounds hold for independent rows, and this log's rows belong to units",
            hint="use interval 't' or 'bootstrap', which count units",
        )
        raise ConfigError(msg)
    if "top" in cell.terms:
        msg = message(
            f"{interval} bounds hold for means, and {cell.estimator} is a ratio",
            hint="use interval 't' or 'bootstrap', or an estimator without self-normalisation (IPS, DR)",
        )
        raise ConfigError(msg)
    if interval == "hoeffding":
        return intervals.hoeffding(moments.n, intervals.value(moments), bounds, level)
    variance = float(moments.cov[0, 0])
    return intervals.bernstein(moments.n, intervals.value(moments), variance, bounds, level)


def weight_summary(part: pl.DataFrame, k: int) -> tuple[float, float, float]:
    """Effective sample size (sum w)^2 / sum w^2, largest weight and mean weight of the weight column w{k}."""
    total, square = float(part[f"w{k}_sum"].sum()), float(part[f"w{k}_square"].sum())
    peak = part[f"w{k}_wmax"].to_numpy().max()
    return (total**2 / square if square > 0 else 0.0), float(peak), total / float(part["n"].sum())


def _without_value(
    policy: str, estimator: str, reward: str, segment: str, level: float, cause: CounterlogError | str
) -> Estimate:
    nothing = {"value": math.nan, "lo": math.nan, "hi": math.nan, "ess": 0.0, "n": 0, "unit": ""}
    return Estimate(
        **nothing,  # type: ignore[arg-type]
        level=level,
        policy=policy,
        estimator=estimator,
        reward=reward,
        segment=segment,
        valid=False,
        reason=str(cause).splitlines()[0],
    )
