"""What makes a feed log fit to choose ad loads from: every refusal of `ad-load`, and its warnings.

    level k    mean over rows of 1{a = k} / p - 1{k available} is 0 when p is the chance of the logged level     (1)
    segment s  mean of (1{a = k} / p) (1{s} - share s) is 0 for every k when s was fixed before the decision   (2)

Both are judged at 4 standard errors over users (2: at a chance of 1 in 10,000 over all pairs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtri

from counterlog.core.errors import LogError, PropensityError, SupportError, first_rows, message
from counterlog.core.frames import collect
from counterlog.core.results import Finding
from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
STANDARD_ERRORS = 4.0
FALSE_ALARM = 1e-4
FEWEST_LAST = 50


def column_of(log: Rounds, name: str, what: str) -> pl.Series:
    """A column that need not have a role. Raises `LogError` when the log does not hold it."""
    if name in log.table.columns:
        return log.table[name]
    present = log.frame.collect_schema().names()
    if name not in present:
        msg = message(f"the log has no column {name!r} for {what}", expected=f"one of {', '.join(present)}")
        raise LogError(msg)
    return collect(log.frame.select(name))[name]


def check_log(
    log: Rounds,
    *,
    revenue: Sequence[str],
    satisfaction: Sequence[str],
    session: str = "",
    eligible_max: str = "",
) -> None:
    """Refuse a log that no ad load can be chosen from. Raises `LogError`, `PropensityError` or `SupportError`."""
    log.check_estimable()
    _check_levels(log, eligible_max)
    for name in revenue:
        bad = np.flatnonzero(log.reward_of(name) < 0)
        if bad.size:
            msg = message(
                f"revenue column {name!r} is negative in {bad.size:,} of {log.n:,} rows: {first_rows(bad)}",
                expected="amounts of at least 0",
                hint="book refunds in a column of their own",
            )
            raise LogError(msg)
    for name in satisfaction:
        if np.ptp(log.reward_of(name)) == 0:
            msg = message(
                f"satisfaction column {name!r} is {log.reward_of(name)[0]:g} in every row",
                hint="if rows exist only where the visit went on, add the rows of exits with outcome 0",
            )
            raise LogError(msg)
    if session:
        _check_fetches(log, session)
    propensity = log.propensity
    if (propensity >= 1).all():
        msg = message(
            "every propensity is 1: the log shows one load a context, and weighting cannot say what another would do",
            hint="explore: give each level a small chance in every fetch, and log the chance of the level drawn",
        )
        raise SupportError(msg)
    check_propensity(log)
    check_segments(log)


def _check_levels(log: Rounds, eligible_max: str) -> None:
    levels = log.table[log.action_column]
    if not levels.dtype.is_integer():
        msg = message(
            f"action column {log.action_column!r} is of type {levels.dtype}",
            expected="ad loads as whole numbers, such as 0 to 4",
        )
        raise LogError(msg)
    if not eligible_max:
        return
    most = column_of(log, eligible_max, "the inventory limit")
    bad = np.flatnonzero((levels > most).fill_null(True).to_numpy())
    if bad.size:
        msg = message(
            f"{log.action_column!r} is above {eligible_max!r} in {bad.size:,} of {log.n:,} rows: {first_rows(bad)}",
            hint="log the load that was shown, after the inventory limit, with the probability after it too",
        )
        raise LogError(msg)


def _check_fetches(log: Rounds, session: str) -> None:
    if log.position_column is None:
        msg = message(
            "the log names no position", hint="position='fetch_index': the fetch's place in its session"
        )
        raise LogError(msg)
    keys = pl.DataFrame({"s": column_of(log, session, "the session"), "i": log.table[log.position_column]})
    bad = np.flatnonzero((~keys.to_struct().is_first_distinct()).to_numpy())
    if bad.size:
        msg = message(
            f"({session!r}, {log.position_column!r}) repeats in {bad.size:,} of {log.n:,} rows: {first_rows(bad)}",
            expected="one row a fetch",
            hint="drop the copies, or number the fetches of a session 0, 1, 2, ...",
        )
        raise LogError(msg)


def z_scores(terms: Floats, unit: NDArray[np.int64] | None) -> Floats:
    """(n, k) terms of mean 0 -> (k,) means in standard errors over units; 0 where nothing varies."""
    if unit is not None:
        codes, dense = np.unique(unit, return_inverse=True)
        terms = np.column_stack([np.bincount(dense, t, minlength=len(codes)) for t in terms.T])
    se = np.sqrt((terms**2).sum(axis=0))
    return np.asarray(np.divide(terms.sum(axis=0), se, out=np.zeros(terms.shape[1]), where=se > 0))


def check_propensity(log: Rounds) -> None:
    """Equation (1) for every level. Raises `PropensityError` naming the levels that fail."""
    hit = (log.action[:, None] == np.arange(len(log.actions))) / log.propensity[:, None]
    could = np.ones_like(hit) if log.available is None else log.available.astype(np.float64)
    z = z_scores(hit - could, log.unit)
    if (bad := np.flatnonzero(np.abs(z) > STANDARD_ERRORS)).size:
        mean = hit.sum(axis=0) / np.maximum(could.sum(axis=0), 1)
        parts = ", ".join(f"level {log.actions[k]}: mean of 1/p is {mean[k]:.3g}" for k in bad)
        msg = message(
            f"column {log.propensity_column or 'propensity'!r} is not the probability of the logged level ({parts})",
            expected="a mean of 1 over the rows where the level could be shown",
            hint="log the probability with which this very level was drawn, after inventory limits",
        )
        raise PropensityError(msg)


def check_segments(log: Rounds) -> None:
    """Equation (2) for every segment value and level. Raises `LogError` naming the column."""
    outcome = {*log.rewards, log.action_column, log.propensity_column}
    for name in log.segment_columns:
        why = ""
        if name in outcome:
            why = "is an outcome or the decision itself"
        else:
            values, code = np.unique(log.table[name].cast(pl.String).to_numpy(), return_inverse=True)
            if len(values) > log.n / 20:
                continue  # too fine to judge, and of no use as a segment
            inside = (code[:, None] == np.arange(len(values))).astype(np.float64)
            inside -= inside.mean(axis=0)
            cells = len(values) * len(log.actions)
            limit = float(-ndtri(FALSE_ALARM / (2 * cells)))
            for k, level in enumerate(log.actions):
                hit = (log.action == k) / log.propensity
                if log.available is not None:
                    hit = hit - log.available[:, k]
                z = z_scores(hit[:, None] * inside, log.unit)
                if (np.abs(z) > limit).any():
                    worst = values[int(np.abs(z).argmax())]
                    why = f"depends on the ad load: {worst!r} is {'more' if z.max() == np.abs(z).max() else 'less'}"
                    why += f" frequent at level {level}"
                    break
        if why:
            msg = message(
                f"segment column {name!r} {why}",
                expected="a column known before the decision",
                hint="segment by history or by the request, never by what happened after the ads were shown",
            )
            raise LogError(msg)


def refuse_missing_after_exit(table: pl.DataFrame, outcomes: Sequence[str], *, continued: str) -> None:
    """Call before the log is made: an outcome that is missing exactly where the visit ended was observed only for those
    who stayed. Raises `LogError`, with the remedy."""
    ended = table[continued].cast(pl.Float64) == 0
    for name in outcomes:
        column = table[name]
        gone = column.is_null() | (
            column.is_nan() if column.dtype.is_float() else pl.repeat(False, len(column), eager=True)
        )
        if gone.any() and bool((gone == ended).all()):
            msg = message(
                f"column {name!r} is missing exactly in the {int(ended.sum()):,} rows where {continued!r} is 0",
                expected="an outcome for every decision: looking only at those who stayed hides what ads cost",
                hint=f"if an exit means that nothing more was seen, fill {name!r} with 0 in these rows",
            )
            raise LogError(msg)


def matured(log: Rounds, delayed: Sequence[str]) -> Mapping[str, Mask]:
    """(n,) by delayed reward: False where the delay column is empty (not known yet).

    Raises `LogError` when none is known.
    """
    if not delayed:
        return {}
    (delay,) = log.need("delay")
    column = pl.Series(delay) if not isinstance(delay, pl.Series) else delay
    known = ~(column.is_null() | (column.is_nan() if column.dtype.is_float() else False))
    mask = np.asarray(known.to_numpy(), dtype=bool)
    if not mask.any():
        msg = message(f"no row has a matured outcome: {log.delay_column!r} is empty everywhere")
        raise LogError(msg)
    for name in delayed:
        log.reward_of(name)
    return dict.fromkeys(delayed, mask)


def sudden_drop(log: Rounds, names: Sequence[str], known: Mapping[str, Mask]) -> list[Finding]:
    """A reward whose mean on the last day falls far below the days before may not have matured (filled with 0)."""
    if log.time_column is None:
        return []
    time = log.table[log.time_column]
    day = time.dt.date() if time.dtype.is_temporal() else (time.cast(pl.Float64) // 86_400).cast(pl.Int64)
    last = (day == day.max()).to_numpy()
    found: list[Finding] = []
    for name in names:
        kept = known.get(name, np.ones(log.n, dtype=bool))
        late, early = log.reward_of(name)[kept & last], log.reward_of(name)[kept & ~last]
        if min(len(late), len(early)) < FEWEST_LAST:
            continue
        se = float(np.sqrt(late.var(ddof=1) / len(late) + early.var(ddof=1) / len(early)))
        drop = float(early.mean() - late.mean())
        if drop > max(STANDARD_ERRORS * se, 0.25 * abs(float(early.mean()))):
            found.append(
                Finding(
                    check="matured outcomes",
                    severity="warning",
                    message=f"{name!r} falls from {early.mean():.4g} to {late.mean():.4g} on the last day",
                    remedy="if outcomes of that day are not known yet, leave its rows out or name the `delay` column",
                    unit=log.rewards[name],
                    n=len(late),
                    value=drop,
                )
            )
    return found


def with_limits(log: Rounds, column: str) -> Rounds:
    """The log with every level up to the row's inventory limit available, when the column is named and the log does not
    say itself."""
    if not column or log.available_column is not None:
        return log
    _check_levels(log, column)
    most = column_of(log, column, "the inventory limit").to_numpy()
    levels = np.array(log.actions)
    allowed = levels[None, :] <= most[:, None]
    words = np.array(["|".join(map(str, levels[: k + 1])) for k in range(len(levels))])
    table = collect(log.frame).with_columns(pl.Series("levels available", words[allowed.sum(axis=1) - 1]))
    roles = {
        "action": log.action_column,
        "reward": log.rewards,
        "propensity": log.propensity_role,
        "context": log.context_columns,
        "unit": log.unit_column,
        "time": log.time_column,
        "segment": log.segment_columns,
        "position": log.position_column,
        "delay": log.delay_column,
    }
    return Rounds(table, available="levels available", **roles)  # type: ignore[arg-type]
