"""SharpeRatio@k: which estimator to trust when its k best-looking policies will be tested, and at what risk.

Use when    estimates of several policies decide which k of them are put to a live test, and true values are known from
            a simulator or from past tests; or, with `advise`, when they are not and the log's own uncertainty must do.
Not when    one policy is valued and nothing is selected: its interval answers that.
Data        true values and estimates by candidate; `advise`: an Evaluation of Rounds
Paper       Kiyohara, Kishimoto, Kawakami, Kobayashi, Nakata and Saito (2024), arXiv 2311.18207
Equation    pi_(1), pi_(2), ..: candidates sorted by estimate, ties by name;  J_(i) their true values  (1)
            MSE = mean (Jh - J)^2,  nMSE = MSE / (max J - min J)^2  (2)
            Spearman: correlation of ranks (ties: average);  Kendall: tau-b  (3)
            best@k = max_{i<=k} J_(i);  worst@k, mean@k, std@k likewise;  kth@k = J_(k)  (4)
            Regret best = max J - best@k;  nRegret = Regret best / (max J - min J);
            Regret sum = sum of the k largest J - sum_{i<=k} J_(i)  (5)
            Type I = P(Jh < tau | J >= tau),  Type II = P(Jh >= tau | J < tau);
            violations@k = P(J_(i) < tau | i <= k)  (6)
            SharpeRatio@k = (max(best@k, J_b) - J_b) / std@k,  J_b the value of the logging policy  (7)
Shapes      J, Jh (m,) | picked (..., m) true values in the order (1); curves (..., m) for k = 1..m
Units       J, tau, J_b: reward units of the candidates' value | (2) MSE: squared | (3), (6), (7) and n..: none
Raises      LogError: fewer than 2 candidates, shapes that differ, values that are not finite | ConfigError: k > m,
            `advise` without the logging policy | SupportError: `advise` with fewer than 2 valid candidates
Differs     the divisor of std@k is k (`ddof=0`, the paper's); 1 is the authors' code. No value where a denominator is
            empty or without spread (k = 1), with the reason, instead of 0 or infinity. Both regrets by name: the paper
            defines `best`, its code computes `sum`. nMSE and the selection by lower bound are ours. The true value may
            be a lower tail (CVaR, quantile) of returns.
Builds on   estimate/return-distribution
Call        assess(true_values, estimates, behaviour=..) judges estimators and estimates nothing, so it is no
            `estimate`; advise(evaluation) of estimate/portfolio_advice.py judges portfolios where J is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from counterlog.core.config import Config, param
from counterlog.core.errors import ConfigError, message
from counterlog.estimate.selection_results import (
    Assessment,
    Metric,
    Problem,
    lower_tail,
    read_problem,
)

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
UNDEFINED = {
    "nMSE": "all true values are alike",
    "nRegret": "all true values are alike",
    "Spearman": "all values on one side are alike",
    "Kendall": "all values on one side are alike",
    "Type I": "no candidate reaches the threshold",
    "Type II": "every candidate reaches the threshold",
    "std": "one policy has no spread with divisor k - 1",
    "SharpeRatio": "no spread",
}
PLAIN = ("MSE", "nMSE", "Spearman", "Kendall", "Type I", "Type II")


@dataclass(frozen=True, kw_only=True)
class SharpeRatioAtKConfig(Config):
    """Settings of the assessment and of the advice."""

    k: tuple[int, ...] = param((), "budgets in the table; empty: half of the candidates", at_least=1)
    ddof: int = param(0, "divisor of std@k is k - ddof: 0 the paper's, 1 its code's", choices=(0, 1))
    threshold: float | None = param(None, "tau of (6); none: the logging policy's value", unit="value")
    functional: str = param(
        "mean", "what returns given as true values come to", choices=("mean", "cvar", "quantile")
    )
    alpha: float = param(0.1, "mass of the lower tail, for cvar and quantile", above=0, at_most=1)
    level: float = param(0.95, "coverage of intervals, and confidence of the lower bound", above=0, below=1)
    replicates: int = param(1000, "bootstrap replicates of the advice", at_least=2)
    risk: float = param(0.05, "largest accepted chance that a tested policy is worse", above=0, below=1)
    prior: str = param(
        "normal",
        "advice: true gains come from one normal distribution, or (flat) each could be anything",
        choices=("normal", "flat"),
    )


# one function per equation


def ranking(values: ArrayLike, names: Sequence[str]) -> Codes:
    """Equation (1): (..., m) places of the candidates, largest value first, ties by name."""
    by_name = np.array(sorted(range(len(names)), key=lambda j: names[j]))
    sorted_values = np.asarray(values, np.float64)[..., by_name]
    return np.asarray(by_name[np.argsort(-sorted_values, axis=-1, kind="stable")], np.int64)


def mse(true: ArrayLike, estimate: ArrayLike) -> float:
    """Equation (2), squared units of the value."""
    return float(np.mean((np.asarray(estimate, np.float64) - np.asarray(true, np.float64)) ** 2))


def nmse(true: ArrayLike, estimate: ArrayLike) -> float:
    """Equation (2) divided by the squared range of the true values; NaN when they are all alike."""
    span = float(np.ptp(np.asarray(true, np.float64)))
    return mse(true, estimate) / span**2 if span > 0 else float("nan")


def spearman(true: ArrayLike, estimate: ArrayLike) -> float:
    """Equation (3) with average ranks; NaN when one side is all alike."""
    one, two = (_signs(x).sum(axis=1) for x in (true, estimate))  # average rank, up to a factor and a shift
    return _cosine(one, two)


def kendall(true: ArrayLike, estimate: ArrayLike) -> float:
    """Equation (3), tau-b; NaN when one side is all alike."""
    return _cosine(_signs(true).ravel(), _signs(estimate).ravel())


def _signs(x: ArrayLike) -> Floats:
    """(m, m) sign of x_i - x_j."""
    v = np.asarray(x, np.float64)
    return np.sign(v[:, None] - v)


def _cosine(one: Floats, two: Floats) -> float:
    size = float(np.sqrt((one @ one) * (two @ two)))
    return float(one @ two) / size if size > 0 else float("nan")


def type_one(true: ArrayLike, estimate: ArrayLike, threshold: float) -> float:
    """Equation (6): share of the policies at or above the threshold that look worse; NaN when there are none."""
    return _share(np.asarray(estimate) < threshold, np.asarray(true) >= threshold)


def type_two(true: ArrayLike, estimate: ArrayLike, threshold: float) -> float:
    """Equation (6): share of the policies below the threshold that look as good; NaN when there are none."""
    return _share(np.asarray(estimate) >= threshold, np.asarray(true) < threshold)


def _share(event: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(event[among].mean()) if among.any() else float("nan")


def best_at_k(picked: Floats) -> Floats:
    """Equation (4) for k = 1..m."""
    return np.asarray(np.maximum.accumulate(picked, axis=-1), dtype=np.float64)


def worst_at_k(picked: Floats) -> Floats:
    """Equation (4) for k = 1..m."""
    out: Floats = np.minimum.accumulate(picked, axis=-1)
    return out


def mean_at_k(picked: Floats) -> Floats:
    """Equation (4) for k = 1..m."""
    return np.asarray(np.cumsum(picked, axis=-1) / np.arange(1, picked.shape[-1] + 1), np.float64)


def std_at_k(picked: Floats, ddof: int = 0) -> Floats:
    """Equation (4) for k = 1..m, divisor k - ddof; exactly 0 for equal values, NaN for k = 1 with ddof 1."""
    centred = picked - picked[..., :1]
    out = np.full(picked.shape, np.nan)
    for k in range(1 + ddof, picked.shape[-1] + 1):
        out[..., k - 1] = centred[..., :k].std(axis=-1, ddof=ddof)
    return out


def violations_at_k(picked: Floats, threshold: float | Floats) -> Floats:
    """Equation (6) for k = 1..m."""
    return mean_at_k(np.asarray(picked < threshold, np.float64))


def regret_best_at_k(picked: Floats) -> Floats:
    """Equation (5) for k = 1..m: what the best policy earns beyond the best of the k tested."""
    return np.asarray(picked.max(axis=-1, keepdims=True) - best_at_k(picked), np.float64)


def regret_sum_at_k(picked: Floats) -> Floats:
    """Equation (5) for k = 1..m: what the k best policies earn together beyond the k tested."""
    ideal = -np.sort(-picked, axis=-1)
    return np.asarray(np.cumsum(ideal - picked, axis=-1), np.float64)


def nregret_at_k(picked: Floats) -> Floats:
    """Equation (5) for k = 1..m, in units of the range of the true values; NaN when they are all alike."""
    span = np.ptp(picked, axis=-1, keepdims=True)
    nothing = np.full(picked.shape, np.nan)
    share: Floats = np.divide(regret_best_at_k(picked), span, out=nothing, where=span > 0)
    return share


def sharpe_ratio(best: Floats, spread: Floats, behaviour: float | Floats) -> Floats:
    """Equation (7), elementwise; NaN where there is no spread."""
    gain = np.asarray(np.maximum(best, behaviour) - behaviour, np.float64)
    ratio: Floats = np.divide(gain, spread, out=np.full(gain.shape, np.nan), where=spread > 0)
    return ratio


def curves_at_k(picked: Floats, behaviour: float, threshold: float, ddof: int = 0) -> dict[str, Floats]:
    """Every metric of a portfolio, (..., m) for k = 1..m."""
    best, std = best_at_k(picked), std_at_k(picked, ddof)
    return {
        "Regret best": regret_best_at_k(picked),
        "Regret sum": regret_sum_at_k(picked),
        "nRegret": nregret_at_k(picked),
        "kth": picked,
        "best": best,
        "worst": worst_at_k(picked),
        "mean": mean_at_k(picked),
        "std": std,
        "violations": violations_at_k(picked, threshold),
        "SharpeRatio": sharpe_ratio(best, std, behaviour),
    }


class SharpeRatioAtK:
    """Judge estimators by the portfolios they would have sent to a test."""

    def __init__(self, config: SharpeRatioAtKConfig | None = None) -> None:
        self.config = config or SharpeRatioAtKConfig()

    def assess(
        self,
        true_values: Any,
        estimates: Any,
        *,
        behaviour: Any,
        standard_errors: Any = None,
        unit: str = "reward",
    ) -> Assessment:
        """Every metric of every estimator, and the curves for k = 1..m.

        true_values      by candidate: a number, or returns (n,) of rollouts, of which `functional` is taken
        estimates        by estimator: (m,) or (seeds, m) in the order of the candidates, or by candidate; or a sequence
                         of `Estimate` or `ReturnDistribution`, or one such sequence a seed
        behaviour        true value (or returns) of the logging policy, J_b
        standard_errors  as `estimates`, where those are arrays: adds the selection by lower bound
        """
        c = self.config
        p = read_problem(
            true_values, estimates, standard_errors, functional=c.functional, alpha=c.alpha, level=c.level
        )
        j_b = lower_tail(behaviour, c.functional, c.alpha)
        tau = j_b if c.threshold is None else c.threshold
        budgets = c.k or (max(1, len(p.candidates) // 2),)
        if max(budgets) > len(p.candidates):
            msg = message(
                f"k={max(budgets)} of {len(p.candidates)} candidates", expected="k at most their number"
            )
            raise ConfigError(msg)
        table: list[Metric] = []
        curves: list[Metric] = []
        paired: list[Metric] = []
        for e, name in enumerate(p.estimators):
            by_selection = {}
            for selection in ("mean", "lcb") if p.bounded else ("mean",):
                sorted_by = (p.values if selection == "mean" else p.lower)[e]
                found = self._measure(p, sorted_by, j_b, tau)
                by_selection[selection] = found
                label = {"estimator": name, "selection": selection}
                skipped = ("MSE", "nMSE") if selection == "lcb" else ()  # a bound is meant to be off
                table += [self._metric(m, 0, found[m], unit, **label) for m in PLAIN if m not in skipped]
                for metric in (m for m in found if m not in PLAIN):
                    line = [
                        self._metric(metric, k, found[metric][:, k - 1], unit, **label)
                        for k in range(1, len(p.candidates) + 1)
                    ]
                    curves += line
                    table += [line[k - 1] for k in budgets]
            if p.bounded:
                for metric in (m for m in by_selection["mean"] if m not in PLAIN):
                    change = by_selection["lcb"][metric] - by_selection["mean"][metric]
                    label = {"estimator": name, "selection": "lcb - mean"}
                    paired += [self._metric(metric, k, change[:, k - 1], unit, **label) for k in budgets]
        return Assessment(
            candidates=p.candidates,
            true_values=tuple(p.true.tolist()),
            behaviour=j_b,
            threshold=tau,
            unit=unit,
            n=p.values.shape[1],
            level=c.level,
            metrics=tuple(table),
            curves=tuple(curves),
            paired=tuple(paired),
        )

    def _measure(self, p: Problem, given: Floats, j_b: float, tau: float) -> dict[str, Floats]:
        """By metric: (seeds,), or (seeds, m) for k = 1..m; `given` (seeds, m) plays the estimate."""
        plain = {
            "MSE": [mse(p.true, x) for x in given],
            "nMSE": [nmse(p.true, x) for x in given],
            "Spearman": [spearman(p.true, x) for x in given],
            "Kendall": [kendall(p.true, x) for x in given],
            "Type I": [type_one(p.true, x, tau) for x in given],
            "Type II": [type_two(p.true, x, tau) for x in given],
        }
        picked = p.true[ranking(given, p.candidates)]
        return {k: np.array(v) for k, v in plain.items()} | curves_at_k(picked, j_b, tau, self.config.ddof)

    def _metric(self, metric: str, k: int, values: Floats, unit: str, **label: str) -> Metric:
        """Mean over the seeds where the metric is defined, with its t interval."""
        known = values[~np.isnan(values)]
        n, nothing = len(known), float("nan")
        value = float(known.mean()) if n else nothing
        half = nothing
        if n > 1:
            half = float(stdtrit(n - 1, 0.5 + self.config.level / 2) * known.std(ddof=1) / np.sqrt(n))
        own = {"MSE": f"{unit}, squared"} | dict.fromkeys(
            ("Regret best", "Regret sum", "kth", "best", "worst", "mean", "std"), unit
        )
        reason = UNDEFINED.get(metric, "undefined") if n < len(values) else ""
        return Metric(
            metric=metric,
            k=k,
            value=value,
            lo=value - half,
            hi=value + half,
            n=n,
            unit=own.get(metric, ""),
            reason=reason,
            **label,
        )
