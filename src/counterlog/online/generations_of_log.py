"""From a log instead of an environment: fit the next policy, and tell what happened in the generations it holds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import LogError, first_rows, message
from counterlog.core.features import Encoder
from counterlog.core.frames import collect
from counterlog.core.intervals import lower_bound
from counterlog.core.moments import Moments
from counterlog.core.rounds import Rounds
from counterlog.online.delayed_rewards import known_rows
from counterlog.online.exploration import best_action
from counterlog.online.exploring_policy import RegressionOraclePolicy
from counterlog.online.generation_record import fit_facts
from counterlog.online.generation_report import Generation, batch_facts, make_report, psi, shift_auc
from counterlog.online.generation_store import Rows

if TYPE_CHECKING:
    from counterlog.online.regression_oracle_bandits import RegressionOracleBandit

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


def improve_from_log(
    bandit: RegressionOracleBandit, log: Rounds, *, generation: str | None, rng: int
) -> RegressionOraclePolicy:
    """The policy fitted on the last `window` generations of the log (all rows without a generation column)."""
    c = bandit.config
    number = generation_codes(log, generation) if generation else np.zeros(log.n, np.int64)
    last = int(number.max())
    if generation and last + 1 < c.window:
        notes: tuple[str, ...] = (f"the log has {last + 1} generations, fewer than the window of {c.window}",)
    else:
        notes = ()
    encoder = Encoder.fit(log.context)
    rows = _rows(bandit, log, encoder)
    k = len(log.actions)
    policy: RegressionOraclePolicy | None = None
    found: list[Generation] = []
    for g in range(last + 1):
        inside = (number <= g) & (number > g - c.window)
        now, previous = number == g, policy
        if previous is not None:
            rows.scores[now] = previous.model.scores(rows.x[now], rows.eligible[now])
        use = rows.take(np.concatenate([np.flatnonzero(inside & ~now), np.flatnonzero(now)]))
        newest = int(now.sum())
        model, held = bandit.fit(use, newest, k, [rng, g])
        gamma = bandit.gamma(model, use, int((number <= g).sum()), k, [rng, g])
        policy = RegressionOraclePolicy(
            model, bandit.rule(gamma), log.actions, encoder=encoder, origin=c.to_dict()
        )
        change = _against_logging(policy, held, c.level) if len(held.action) > 1 else (math.nan, math.nan)
        policy.deploy = c.deploy == "always" or not change[1] <= -c.tol
        facts = (
            _facts(rows, use, now, previous, number == g - 1, bandit, rng)
            if g
            else _facts(rows, use, now, None, now, bandit, rng)
        )
        facts |= {"difference": change[0], "difference_lower": change[1]}
        found.append(Generation(generation=g, deployed=policy.deploy, **facts))
        if g and previous is not None:
            found[g - 1] = replace(
                found[g - 1], greedy=_greedy_value(previous, rows.take(now & (rows.weight > 0)))
            )
    if policy is None:
        msg = message("the log holds no generation")
        raise LogError(msg)
    report = make_report(tuple(found), unit=bandit.unit(log.reward_unit), level=c.level, notes=notes)
    return replace(policy, report=report)


def generation_codes(log: Rounds, column: str) -> Codes:
    """(n,) 0, 1, ... in the order of the column's values. Raises `LogError` when time runs against the generations."""
    if column in log.table.columns:
        values = log.table[column]
    else:
        present = log.frame.collect_schema().names()
        if column not in present:
            msg = message(f"the log has no column {column!r}", expected=f"one of {', '.join(present)}")
            raise LogError(msg)
        values = collect(log.frame.select(column))[column]
    if not values.dtype.is_integer() or values.null_count():
        msg = message(
            f"generation column {column!r} is of type {values.dtype} with {values.null_count()} gaps",
            expected="integers without gaps",
        )
        raise LogError(msg)
    codes = (values.rank("dense").cast(pl.Int64) - 1).to_numpy()
    order = np.argsort(log.need("time")[0], kind="stable") if log.time_column else np.arange(log.n)
    if (back := np.flatnonzero(np.diff(codes[order]) < 0)).size:
        by = f"by {log.time_column!r}" if log.time_column else "by row"
        msg = message(
            f"generations do not increase in order {by}: {first_rows(order[back + 1])}",
            hint="sort the log by time, or name its time column",
        )
        raise LogError(msg)
    return codes


def _rows(bandit: RegressionOracleBandit, log: Rounds, encoder: Encoder) -> Rows:
    """The whole log as rows of a fit; weight 0 where the reward is not known."""
    c, n = bandit.config, log.n
    eligible = np.ones((n, len(log.actions)), bool) if log.available is None else np.asarray(log.available)
    decision, delay, now = np.zeros(n), np.zeros(n), 0.0
    if log.delay_column:
        delay = _numeric(log, log.delay_column)
        if c.delay == "ipcw" or c.silence_is_failure:
            decision = _numeric(log, (log.need("time") and log.time_column) or "")
            now = float(max(decision.max(), np.nanmax(decision + delay)))
        else:
            now = float(np.finfo(np.float64).max)
    reward, weight = known_rows(
        decision,
        delay,
        bandit.scale(log.reward, ~np.isnan(delay)),
        now,
        rule=c.delay,
        maturity=c.maturity,
        silence_is_failure=c.silence_is_failure,
        group=log.action,
    )
    known = weight > 0
    mean = float(reward[known].mean()) if known.any() else 0.5
    return Rows(
        x=encoder.transform(log.context),
        eligible=eligible,
        action=np.array(log.action),
        propensity=np.array(log.propensity),
        reward=reward,
        weight=weight,
        scores=np.full((n, len(log.actions)), mean),
    )


def _numeric(log: Rounds, column: str) -> Floats:
    """A time or delay column as numbers; missing is NaN. Raises `LogError` for dates: their unit must be chosen."""
    values = log.table[column]
    if not values.dtype.is_numeric():
        msg = message(
            f"column {column!r} is of type {values.dtype}",
            expected="numbers, time and delay in one unit",
            hint="for dates: days since the first decision",
        )
        raise LogError(msg)
    return values.cast(pl.Float64).fill_null(math.nan).to_numpy().astype(np.float64)


def _against_logging(policy: RegressionOraclePolicy, held: Rows, level: float) -> tuple[float, float]:
    """(mean, lower bound) of the value of the policy minus that of the logging policy, paired, doubly robust."""
    rows = np.arange(len(held.action))
    p, f = policy.probs_of(held.x, held.eligible), policy.model.scores(held.x, held.eligible)
    residual = held.reward - f[rows, held.action]
    d = (p * f).sum(axis=1) + p[rows, held.action] / held.propensity * residual - held.reward
    return float(d.mean()), lower_bound(Moments.from_units(a=d), 1 - level)


def _greedy_value(policy: RegressionOraclePolicy, rows: Rows) -> float:
    """Doubly robust value of the model's best actions on a generation it was not fitted on."""
    i, f = np.arange(len(rows.action)), policy.model.scores(rows.x, rows.eligible)
    best = best_action(f, rows.eligible)
    agree = (best == rows.action) / rows.propensity
    return float((f[i, best] + agree * (rows.reward - f[i, rows.action])).mean())


def _facts(
    rows: Rows,
    use: Rows,
    now: NDArray[np.bool_],
    previous: RegressionOraclePolicy | None,
    before: NDArray[np.bool_],
    bandit: RegressionOracleBandit,
    rng: int,
) -> dict[str, Any]:
    """The fields of one generation's record."""
    here = rows.take(now)
    facts = batch_facts(
        action=here.action,
        propensity=here.propensity,
        eligible=here.eligible,
        reward=here.reward,
        known=here.weight > 0,
        scores=here.scores,
        probs=None,
    )
    facts |= fit_facts(use.take(use.weight > 0))
    if previous is None:
        facts |= dict.fromkeys(
            ("calibration", "calibration_explored", "explored_error_ratio", "off_best"), math.nan
        )
    else:
        facts["psi"] = psi(rows.x[before], here.x)
        if bandit.config.shift_auc:
            facts["auc"] = shift_auc(rows.x[before], here.x, rng=rng)
    return facts
