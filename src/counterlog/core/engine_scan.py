"""The bucket table made where the log lies: for policies and estimators that are expressions of its own columns.

Nothing is collected but the bucket sums, so the memory needed does not grow with the log. Reward models,
estimators that fit something first, and policies that answer by arrays go through `core.evaluate` instead;
both give the same table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import polars as pl

from counterlog.core.buckets import (
    PARTS,
    BucketTable,
    Cell,
    bucket_expression,
    cell_columns,
    row_bucket,
    scan,
)
from counterlog.core.errors import LogError, SupportError, message
from counterlog.core.estimators import Estimator, Row
from counterlog.core.frames import collect
from counterlog.core.intervals import BUCKETS
from counterlog.core.policies import TOLERANCE, LoggedColumn, Policy
from counterlog.core.rounds import Rounds
from counterlog.core.terms import Term, column

UNITS_A_BUCKET = 50
ROWS_IN_MEMORY = 250_000  # beyond this the rows are streamed: half the time, a fraction of the memory


def expressible(log: Rounds, policies: Sequence[Policy], estimators: Sequence[Estimator]) -> bool:
    """Whether the whole question can be put to the engine that holds the log."""
    native = log.frame.to_native()
    plain = all(not e.needs_model and type(e).prepare is Estimator.prepare for e in estimators)
    whole = log.unit_column is None or log.frame.collect_schema()[log.unit_column].is_integer()
    known = log.propensity_expression is not None
    return (
        isinstance(native, pl.LazyFrame)
        and plain
        and whole
        and known
        and all(p.logged_expression(log) is not None for p in policies)
    )


def scan_log(
    log: Rounds,
    policies: Sequence[Policy],
    estimators: Sequence[Estimator],
    rewards: Sequence[str],
    segments: Sequence[str],
    *,
    sums_only: bool = False,
) -> BucketTable:
    """Every policy, estimator and reward in one aggregation, one more a segment column.

    `sums_only` leaves out the buckets when rows are their own units: values and t intervals in a third of the time, but
    no bootstrap, no difference of two policies and no note on heavy tails.

    Raises `LogError` for a policy column that holds no probabilities, `SupportError` for a policy that no
    row agrees with.
    """
    propensity = log.propensity_expression
    weights = {f"w{k}": p.logged_expression(log) / propensity for k, p in enumerate(policies)}  # type: ignore[operator]
    columns: dict[str, Term] = {}
    cells: list[Cell] = []
    for k, policy in enumerate(policies):
        w = column(f"w{k}")
        columns |= {f"w{k}_sum": w, f"w{k}_square": w * w}
        for reward in rewards:
            for estimator in estimators:
                parts = estimator.parts(Row(w=w, r=column(reward)))
                present = tuple(name for name in PARTS if getattr(parts, name) is not None)
                unit = log.rewards[reward]
                cells.append(Cell(len(cells), policy.name, estimator.label, reward, unit, present, k))
                columns |= cell_columns(cells[-1].index, parts, products=log.unit_column is None)
    frame, bucket, exact = (log.frame, None, False) if sums_only and log.unit_column is None else _keyed(log)
    prepared = frame.with_columns(**weights)
    peaks = {f"w{k}_wmax": column(f"w{k}") for k in range(len(policies))}
    checks = {f"w{k}_outside": _outside(p) for k, p in enumerate(policies) if isinstance(p, LoggedColumn)}
    large = log.n > ROWS_IN_MEMORY
    tables = [scan(prepared, columns | checks, peaks, bucket, streaming=large)]
    _check(log, policies, tables[0])
    tables[0] = tables[0].drop(checks)
    tables += [scan(prepared, columns, peaks, bucket, group=g, streaming=large) for g in segments]
    clustered = log.unit_column is not None
    return BucketTable(pl.concat(tables), tuple(cells), clustered, log.propensity_label, exact)


def _keyed(log: Rounds) -> tuple[nw.LazyFrame[Any], nw.Expr, bool]:
    """The log, its bucket, and whether a bucket is one unit: a few units are kept apart, rows are never."""
    if log.unit_column is None:
        numbered = log.frame.to_native().with_row_index("__row").with_columns(__bucket=row_bucket(BUCKETS))
        return nw.from_native(numbered), nw.col("__bucket"), False
    key = nw.col(log.unit_column).cast(nw.Int64)
    units = collect(log.frame.select(nw.col(log.unit_column).n_unique())).item()
    few = units < UNITS_A_BUCKET * BUCKETS
    return log.frame, key if few else bucket_expression(key, BUCKETS), few


def _check(log: Rounds, policies: Sequence[Policy], table: pl.DataFrame) -> None:
    """Refuse columns that are no probabilities, and policies that agree with no row."""
    for k, policy in enumerate(policies):
        if f"w{k}_outside" in table.columns and (count := int(table[f"w{k}_outside"].sum())):
            msg = message(
                f"policy {policy.name!r} gives no probability in {count:,} of {log.n:,} rows",
                expected="numbers in [0, 1]",
            )
            raise LogError(msg)
        if table[f"w{k}_sum"].sum() == 0:
            msg = message(
                f"no logged decision agrees with policy {policy.name!r}: all {log.n:,} weights are 0",
                expected="some logged decision that the policy would also make",
                hint="use a policy closer to the log, or the direct method (DM)",
            )
            raise SupportError(msg)


def _outside(policy: LoggedColumn) -> Term:
    """True where a policy's column holds no probability."""
    p = nw.col(policy.column)
    bad = p.is_null() | ~((p >= 0) & (p <= 1 + TOLERANCE))
    return Term(f"outside({policy.column!r})", bad)
