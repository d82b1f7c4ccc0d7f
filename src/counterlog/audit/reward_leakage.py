"""Leakage: context columns that know the reward, and columns that were measured after the action.

Use when    context columns will be used by a reward model, a policy or a segment.
Not when    a column is known to be recorded before the decision and a near-perfect forecast of the reward is plausible.
Data        Rounds(action, reward, context), optionally propensity
Paper       Kaufman, Rosset, Perlich, Stitelman, "Leakage in data mining", 2012 (predictability); for randomised
            actions, the covariate balance test.
Equation    score = max over (cross-fitted R2 of the reward by the column's bins, r^2, rank r^2, 2 AUC - 1)     (1)
            balance: chi-square of bins by actions when propensities are constant by action, else the test of
            E[1{a = k}/p | bin] <= 1 (core.weight_means)                                                      (2)
Shapes      column (n,) cut into at most `bins` bins
Units       score in [0, 1] | Cramer's V in [0, 1]
Raises      ConfigError: a threshold is outside its bounds. No valid log raises
Differs     each column alone, on at most `rows` rows drawn at random; a leak that needs two columns is not seen.
Builds on   sample-ratio (which rows count when a unit keeps its action)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import chi2, rankdata

from counterlog.audit.sample_ratio import one_row_a_unit
from counterlog.core.config import Config, param
from counterlog.core.multiplicity import holm
from counterlog.core.results import Finding
from counterlog.core.rounds import ESTIMATED, Rounds
from counterlog.core.weight_means import fixed_split, largest_weights, weight_means

LEAK, AFTER = "reward leakage", "column after action"
Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RewardLeakageConfig(Config):
    """Thresholds of the leakage check."""

    warn_auc: float = param(0.95, "AUC of one column from which it is suspected", above=0.5, at_most=1)
    warn_r2: float = param(0.8, "R2 of one column from which it is suspected", above=0, at_most=1)
    sure: float = param(
        0.999, "AUC or R2 from which the column is taken for the reward itself", above=0, at_most=1
    )
    alpha: float = param(
        0.001, "chance of a false alarm of the balance test over all columns", above=0, below=1
    )
    rows: int = param(100_000, "rows used, drawn at random", at_least=100)
    bins: int = param(32, "most bins of a number column", at_least=2)
    balance_bins: int = param(10, "most bins in the balance test", at_least=2)
    least: int = param(
        20, "rows with the rarer outcome that are needed before anything is tested", at_least=2
    )


class RewardLeakage:
    """The check. One finding on predictability and one on balance, with one evidence record per column."""

    def __init__(self, config: RewardLeakageConfig = RewardLeakageConfig()) -> None:
        self.config = config

    def check(self, log: Rounds, *, rng: int = 0) -> tuple[Finding, ...]:
        """Both tests over the context and segment columns. `rng` draws the rows and the two folds."""
        names = [
            n
            for n in dict.fromkeys((*log.context_columns, *log.segment_columns))
            if log.table[n].dtype not in (pl.List, pl.Struct, pl.Array)
            and n not in (log.action_column, *log.rewards)
        ]
        if not names:
            return (
                Finding(
                    check=LEAK,
                    severity="ok",
                    message="the log has no context columns that could leak",
                    n=log.n,
                ),
            )
        return (self._reward(log, names, rng), self._after(log, names, rng))

    def _reward(self, log: Rounds, names: list[str], rng: int) -> Finding:
        c = self.config
        rows = _some(np.arange(log.n), c.rows, rng)
        half = np.random.default_rng(rng + 1).random(len(rows)) < 0.5
        table = log.table.select(names)[rows]
        evidence: list[dict[str, Any]] = []
        for reward in log.rewards:
            y = log.reward_of(reward)[rows]
            y = y / max(float(np.abs(y).max()), 1e-300)  # no square overflows
            values, counts = np.unique(y, return_counts=True)
            if len(values) < 2:
                continue
            usual = values[np.argmax(counts)]
            event = y != usual if len(values) > 2 else y == values[1]
            enough = min(int(event.sum()), int((~event).sum())) >= c.least
            if not enough and len(values) < c.least:
                continue
            evidence += [
                {"column": name, "reward": reward, **score(table[name], y, event, half, c)} for name in names
            ]
        worst = sorted(evidence, key=lambda e: -max(e["R2"], e["AUC"] if e["AUC"] == e["AUC"] else 0))
        sure = [e for e in worst if e["R2"] >= c.sure or e["AUC"] >= c.sure]
        bad = [
            e
            for e in worst
            if e not in sure and (e["R2"] >= c.warn_r2 or e["AUC"] >= c.warn_auc or e["pure level"])
        ]
        if not sure and not bad:
            text = f"no single one of {len(names)} columns predicts the reward implausibly well"
            return Finding(
                check=LEAK,
                severity="ok",
                message=text,
                n=log.n,
                unit="largest R2",
                value=max((e["R2"] for e in evidence), default=0.0),
                evidence=tuple(evidence),
            )
        parts = [
            f"{e['column']!r} determines the reward {e['reward']!r} (R2 {e['R2']:.3g}, AUC {e['AUC']:.3g})"
            for e in sure[:5]
        ]
        parts += [
            f"{e['column']!r} predicts {e['reward']!r} implausibly well ({_why(e)})"
            for e in bad[: 5 - len(parts)]
        ]
        remedy = (
            f"find out when {(sure or bad)[0]['column']!r} is written; leave it out of the context unless it is known "
            "before the decision (estimates that use no context are not touched by it)"
        )
        return Finding(
            check=LEAK,
            severity="stop" if sure else "warning",
            message="; ".join(parts),
            remedy=remedy,
            n=log.n,
            unit="largest R2",
            value=worst[0]["R2"],
            evidence=tuple(worst),
        )

    def _after(self, log: Rounds, names: list[str], rng: int) -> Finding:
        c, k = self.config, len(log.actions)
        if log.propensity_role in (None, ESTIMATED) or k < 2 or bool(np.all(log.propensity >= 1)):
            text = "the actions are not known to be randomised, so columns measured after them cannot be told"
            return Finding(check=AFTER, severity="ok", message=text, n=log.n)
        rows = _some(one_row_a_unit(log), c.rows, rng)
        action, propensity = log.action[rows], log.propensity[rows]
        simple = fixed_split(log) is not None
        table, p, size = log.table.select(names)[rows], np.full(len(names), np.nan), np.zeros(len(names))
        bound = largest_weights(log.action, log.propensity, k)
        for j, name in enumerate(names):
            code, _ = binned(table[name], c.balance_bins)
            if simple:
                p[j], size[j] = balance(code, action, k)
            elif code.max() > 0:
                means = weight_means(
                    action,
                    propensity,
                    k,
                    cell=code,
                    cells=int(code.max()) + 1,
                    available=None if log.available is None else log.available[rows],
                    unit=None if log.unit is None else log.unit[rows],
                    bound=bound,
                )
                p[j] = float(np.nanmin(holm(means.p_high)))
                size[j] = _v(code, action, k)
        adjusted = holm(p)
        evidence = tuple(
            {"column": name, "p": float(adjusted[j]), "Cramer's V": float(size[j])}
            for j, name in enumerate(names)
        )
        off = [j for j in np.argsort(np.nan_to_num(adjusted, nan=1.0)) if adjusted[j] < c.alpha]
        if not off:
            text = f"the action does not depend on any of {len(names)} columns beyond its propensities"
            least = float(np.nanmin(adjusted)) if not np.isnan(adjusted).all() else float("nan")
            return Finding(
                check=AFTER,
                severity="ok",
                message=text,
                n=log.n,
                unit="adjusted p-value",
                value=least,
                evidence=evidence,
            )
        shown = ", ".join(repr(names[j]) for j in off[:5]) + (", ..." if len(off) > 5 else "")
        text = (
            f"{shown} depend{'s' if len(off) == 1 else ''} on the action although the propensities say it was drawn "
            f"without regard to it (p = {adjusted[off[0]]:.2g}, Cramer's V {size[off[0]]:.2g})"
        )
        remedy = (
            "either the column was measured after the action (leave it out of context and segments), or the logging "
            "did look at it (then the propensities are wrong: log the true ones)"
        )
        return Finding(
            check=AFTER,
            severity="warning",
            message=text,
            remedy=remedy,
            n=log.n,
            unit="adjusted p-value",
            value=float(adjusted[off[0]]),
            evidence=evidence,
        )


def binned(column: pl.Series, bins: int) -> tuple[Codes, Floats | None]:
    """(n,) bin codes, gaps in a bin of their own, and the numbers of a number column (gaps NaN)."""
    if column.dtype.is_temporal():
        column = column.cast(pl.Int64)
    if column.dtype.is_numeric():
        x = column.cast(pl.Float64).to_numpy().astype(np.float64)
        known = ~np.isnan(x)
        values = np.unique(x[known])
        if len(values) <= bins:
            code = np.searchsorted(values, x)
        else:
            edges = np.unique(np.quantile(x[known], np.arange(1, bins) / bins))
            code = np.searchsorted(edges, x, side="right")
        code = np.where(known, code, len(values) + 1)
        return np.unique(code, return_inverse=True)[1].astype(np.int64), x
    text = column.cast(pl.String).fill_null("\x00").alias("level")
    frequent = text.value_counts(sort=True)["level"].head(bins)
    codes = pl.Series(range(len(frequent)), dtype=pl.Int64)
    level = text.replace_strict(frequent, codes, default=len(frequent)).to_numpy()
    return np.unique(level, return_inverse=True)[1].astype(np.int64), None


def score(
    column: pl.Series, y: Floats, event: NDArray[np.bool_], half: NDArray[np.bool_], c: RewardLeakageConfig
) -> dict[str, Any]:
    """Equation (1) in parts: `R2` of the reward, `AUC` of the rarer outcome, and a level that always has it."""
    code, x = binned(column, c.bins)
    levels = int(code.max()) + 1
    guess, chance = np.empty(len(y)), np.empty(len(y))
    for fit in (half, ~half):
        guess[~fit] = _means(code, y, fit, levels)[code[~fit]]
        chance[~fit] = _means(code, event.astype(float), fit, levels)[code[~fit]]
    total = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - guess) ** 2).sum()) / total
    few = min(int(event.sum()), int((~event).sum())) < c.least
    area = float("nan") if few else auc(chance, event)
    if x is not None and len(np.unique(x[~np.isnan(x)])) > 1:
        filled = np.where(np.isnan(x), np.nanmean(x), x)
        ranks = rankdata(filled)
        r2 = max(r2, np.corrcoef(filled, y)[0, 1] ** 2, np.corrcoef(ranks, rankdata(y))[0, 1] ** 2)
        if not few:
            direct = auc(filled, event)
            area = max(area, direct, 1 - direct)
    return {"R2": max(float(r2), 0.0), "AUC": area, "pure level": pure_level(code, event, levels)}


def pure_level(code: Codes, event: NDArray[np.bool_], levels: int) -> bool:
    """Whether some bin holds only the rarer outcome, in a number of rows that chance does not give (p < 1e-9)."""
    rare = event if event.mean() <= 0.5 else ~event
    rows = np.bincount(code, minlength=levels)
    hits = np.bincount(code, rare.astype(float), minlength=levels)
    share = max(float(rare.mean()), 1e-12)
    return bool(((hits == rows) & (rows * np.log(share) < np.log(1e-9 / levels))).any())


def auc(score: Floats, event: NDArray[np.bool_]) -> float:
    """Chance that a row with the event scores above one without, ties counted half."""
    ranks, hits = rankdata(score), int(event.sum())
    return float((ranks[event].sum() - hits * (hits + 1) / 2) / (hits * (len(event) - hits)))


def balance(code: Codes, action: Codes, actions: int) -> tuple[float, float]:
    """Chi-square p-value of bins by actions, and Cramer's V; bins too small for expected counts of 5 are joined."""
    share = np.bincount(action, minlength=actions) / len(action)
    rows = np.bincount(code)
    small = rows * share[share > 0].min() < 5
    joined = np.unique(np.where(small[code], -1, code), return_inverse=True)[1]
    counts = np.bincount(joined * actions + action, minlength=(joined.max() + 1) * actions).reshape(
        -1, actions
    )
    counts = counts[:, counts.sum(axis=0) > 0]
    if counts.shape[0] < 2 or counts.shape[1] < 2:
        return float("nan"), 0.0
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    if expected.min() < 1:
        return float("nan"), 0.0
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    return float(chi2.sf(statistic, freedom)), _cramer(statistic, counts)


def _cramer(statistic: float, counts: NDArray[Any]) -> float:
    return float(np.sqrt(statistic / counts.sum() / max(min(counts.shape) - 1, 1)))


def _v(code: Codes, action: Codes, actions: int) -> float:
    counts = np.bincount(code * actions + action, minlength=(code.max() + 1) * actions).reshape(-1, actions)
    counts = counts[:, counts.sum(axis=0) > 0]
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    return _cramer(float(((counts - expected) ** 2 / expected).sum()), counts)


def _means(code: Codes, y: Floats, fit: NDArray[np.bool_], levels: int) -> Floats:
    rows = np.bincount(code[fit], minlength=levels)
    sums = np.bincount(code[fit], y[fit], minlength=levels)
    overall = float(y[fit].mean()) if fit.any() else float(y.mean())
    return np.where(rows > 0, sums / np.maximum(rows, 1), overall)


def _some(rows: Codes, most: int, rng: int) -> Codes:
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(rng).choice(rows, size=most, replace=False))


def _why(e: dict[str, Any]) -> str:
    if e["pure level"]:
        return "one of its values always has the rarer outcome"
    return f"R2 {e['R2']:.3g}, AUC {e['AUC']:.3g}"
