"""The bucket table made where the log lies: for policies and estimators that are expressions of its own columns.

Nothing is collected but the bucket sums, so the memory needed does not grow with the log. Estimators that fit something
first, and policies that answer by arrays, go through `core.array_scan` instead, in one piece or in batches; all give
the same table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import narwhals as nw
import polars as pl

from counterlog.core.buckets import (
    PARTS,
    UNITS_A_BUCKET,
    BucketTable,
    Cell,
    bucket_expression,
    cell_columns,
    row_bucket,
    scan,
)
from counterlog.core.column_predictions import ColumnPredictions, not_finite
from counterlog.core.engines import OWN, scans, with_row_number, with_text_code
from counterlog.core.errors import LogError, SupportError, message
from counterlog.core.estimators import MODEL_NOTE, Estimator, Row
from counterlog.core.frames import collect
from counterlog.core.intervals import BUCKETS
from counterlog.core.policies import TOLERANCE, LoggedColumn, Policy
from counterlog.core.rounds import Rounds
from counterlog.core.terms import Term, column

ROWS_IN_MEMORY = 250_000  # beyond this Polars streams the rows: half the time, a fraction of the memory
_TEXT = (nw.String, nw.Categorical, nw.Enum)

Predictions = Mapping[str, Any]


def expressible(
    log: Rounds, policies: Sequence[Policy], estimators: Sequence[Estimator], q: Predictions | None = None
) -> bool:
    """Whether the whole question can be put to the engine that holds the log.

    `q`: predictions by reward; estimators with a model can be scanned when every reward has them in columns.
    """
    predicted = q is not None and all(isinstance(q.get(r), ColumnPredictions) for r in log.rewards)
    plain = all(predicted or not e.needs_model for e in estimators)
    fitted = any(e.prepares for e in estimators)
    known = log.propensity_expression is not None
    return (
        scans(log.frame)
        and plain
        and not fitted
        and known
        and unit_is_key(log)
        and all(p.logged_expression(log) is not None for p in policies)
    )


def unit_is_key(log: Rounds) -> bool:
    """Whether every engine hashes the units alike: whole numbers or text, or no units at all."""
    if log.unit_column is None:
        return True
    kind = log.frame.collect_schema()[log.unit_column]
    return kind.is_integer() or kind in _TEXT


def scan_log(
    log: Rounds,
    policies: Sequence[Policy],
    estimators: Sequence[Estimator],
    rewards: Sequence[str],
    segments: Sequence[str],
    *,
    q: Predictions | None = None,
    sums_only: bool = False,
    record: bool = False,
) -> BucketTable:
    """Every policy, estimator and reward in one aggregation, one more a segment column.

    `sums_only` leaves out the buckets when rows are their own units: values and t intervals in less than half the time,
    but no bootstrap, no difference of two policies and no note on heavy tails. `record` keeps a policy that no row
    agrees with among the dropped ones, unless all are.

    Raises `LogError` for a policy column that holds no probabilities, or a prediction that is no number, and
    `SupportError` for a policy that no row agrees with.
    """
    propensity = log.propensity_expression
    weights = {f"{OWN}w{k}": p.logged_expression(log) / propensity for k, p in enumerate(policies)}  # type: ignore[operator]
    columns: dict[str, Term] = {}
    cells: list[Cell] = []
    for k in range(len(policies)):
        w = column(f"{OWN}w{k}")
        columns |= {f"w{k}_sum": w, f"w{k}_square": w * w}
    for reward, (k, policy), estimator in product(rewards, enumerate(policies), estimators):
        parts = estimator.parts(_row(column(f"{OWN}w{k}"), policy, reward, q))
        present = tuple(name for name in PARTS if getattr(parts, name) is not None)
        unit, weighted = log.rewards[reward], estimator.needs_propensity
        notes = (MODEL_NOTE,) if estimator.needs_model and not weighted else ()
        names = (policy.name, estimator.label, reward, unit)
        cells.append(Cell(len(cells), *names, present, k, notes, weighted))
        columns |= cell_columns(cells[-1].index, parts, products=log.unit_column is None)
    frame, bucket, exact = (log.frame, None, False) if sums_only and log.unit_column is None else keyed(log)
    prepared = frame.with_columns(**weights)
    peaks = {f"w{k}_wmax": column(f"{OWN}w{k}") for k in range(len(policies))}
    large = log.n > ROWS_IN_MEMORY
    checks, facts = _checks(log, policies, estimators, rewards, q), _ranges(policies)
    asked = columns | {name: term for name, (term, *_) in checks.items()}
    table = scan(prepared, asked, peaks, bucket, facts=facts, streaming=large)
    for name, (_, what, expected) in checks.items():
        if count := int(table[name].sum()):
            raise LogError(message(f"{what} in {count:,} of {log.n:,} rows", expected=expected))
    _check_ranges(log, policies, table)
    tables = [table.drop(*checks, *facts)]
    tables += [scan(prepared, columns, peaks, bucket, group=g, streaming=large) for g in segments]
    clustered = log.unit_column is not None
    made = BucketTable(pl.concat(tables), tuple(cells), clustered, log.propensity_label, exact)
    return supported(made, log.n, record=record)


def _row(w: Term, policy: Policy, reward: str, q: Predictions | None) -> Row:
    """The ingredients of a policy and reward over the log's columns."""
    found = (q or {}).get(reward)
    if not isinstance(found, ColumnPredictions):
        return Row(w=w, r=column(reward))
    return Row(w=w, r=column(reward), q=column(found.logged), v=column(found.value_of(policy)))


def keyed(log: Rounds) -> tuple[nw.LazyFrame[Any], nw.Expr, bool]:
    """The log, its bucket, and whether a bucket is one unit: a few units are kept apart, rows are never."""
    if log.unit_column is None:
        number = f"{OWN}row"
        frame = with_row_number(log.frame, number)
        return frame, row_bucket(nw.col(number)), False
    frame, key = with_unit_key(log)
    units = collect(log.frame.select(nw.col(log.unit_column).n_unique())).item()
    few = units < UNITS_A_BUCKET * BUCKETS
    return frame, key if few else bucket_expression(key, BUCKETS), few


def with_unit_key(log: Rounds) -> tuple[nw.LazyFrame[Any], nw.Expr]:
    """The log and the whole number that stands for a unit: itself, or the code of its text."""
    frame, name = log.frame, log.unit_column or ""
    if not frame.collect_schema()[name].is_integer():
        name = f"{OWN}key"
        frame = with_text_code(frame, log.unit_column or "", name)
    return frame, nw.col(name).cast(nw.Int64)


def _checks(
    log: Rounds,
    policies: Sequence[Policy],
    estimators: Sequence[Estimator],
    rewards: Sequence[str],
    q: Predictions | None,
) -> dict[str, tuple[Term, str, str]]:
    """Columns that count rows in which a prediction is no number, each with its refusal."""
    found: dict[str, tuple[Term, str, str]] = {}
    used = [q[r] for r in rewards] if q is not None and any(e.needs_model for e in estimators) else []
    names = [n for f in used for n in (f.logged, *(f.value_of(p) for p in policies))]
    for name in dict.fromkeys(names):
        term = Term(f"unpredicted({name!r})", not_finite(name).cast(nw.Float64))
        found[f"unpredicted{len(found)}"] = (
            term,
            f"prediction column {name!r} is no number",
            "finite numbers",
        )
    return found


def _ranges(policies: Sequence[Policy]) -> dict[str, nw.Expr]:
    """Least and largest value and number of values of every policy's column: far cheaper than a test of each row."""
    facts: dict[str, nw.Expr] = {}
    for k, policy in enumerate(policies):
        if isinstance(policy, LoggedColumn):
            p = nw.col(policy.column)
            facts |= {f"least{k}": p.min(), f"most{k}": p.max(), f"given{k}": p.count()}
    return facts


def _check_ranges(log: Rounds, policies: Sequence[Policy], table: pl.DataFrame) -> None:
    """Refuse a policy's column that holds no probabilities; only then are its rows counted. Raises `LogError`."""
    for k, policy in enumerate(policies):
        if not isinstance(policy, LoggedColumn):
            continue
        least, most = (table[name].drop_nulls() for name in (f"least{k}", f"most{k}"))
        given, mass = table[f"given{k}"].sum(), table[f"w{k}_sum"].sum()
        inside = least.len() and least.min() >= 0 and most.max() <= 1 + TOLERANCE  # type: ignore[operator]
        if inside and given == log.n and math.isfinite(mass):
            continue
        p = nw.col(policy.column).cast(nw.Float64)
        # p - p, as DuckDB answers comparisons and isnan from a file's statistics, which leave NaN out
        outside = p.is_null() | ~(p - p == 0) | ~((p >= 0) & (p <= 1 + TOLERANCE))
        count = int(collect(log.frame.select(outside.cast(nw.Float64).sum().alias("rows"))).item())
        if count:
            msg = f"policy {policy.name!r} gives no probability in {count:,} of {log.n:,} rows"
            raise LogError(message(msg, expected="numbers in [0, 1]"))


def supported(table: BucketTable, n: int, *, record: bool) -> BucketTable:
    """The table without the cells of policies that agree with no row, which are dropped with their reason if `record`.

    Raises `SupportError` for the first of them without `record`, or when nothing is left.
    """
    reasons: dict[int, str] = {}
    for cell in table.cells:
        if cell.weighted and cell.weights not in reasons and table.frame[f"w{cell.weights}_sum"].sum() == 0:
            reasons[cell.weights] = message(
                f"no logged decision agrees with policy {cell.policy!r}: all {n:,} weights are 0",
                expected="some logged decision that the policy would also make",
                hint="use a policy closer to the log, or the direct method (DM)",
            )
    if not reasons:
        return table
    gone = [c for c in table.cells if c.weighted and c.weights in reasons]
    kept = tuple(c for c in table.cells if c not in gone)
    if not record or not kept:
        raise SupportError(next(iter(reasons.values())))
    found = {(c.policy, c.reward): reasons[c.weights] for c in gone}
    more = tuple({"policy": p, "reward": r, "reason": reason} for (p, r), reason in found.items())
    return replace(table, cells=kept, dropped=(*table.dropped, *more))
