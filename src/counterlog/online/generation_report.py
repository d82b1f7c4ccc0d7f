"""What happened from generation to generation of a model that trains on its own log: is it degrading or oscillating?

Equation    degradation     z_g = (v_{g+1} - v_g) / sqrt(se_g^2 + se_{g+1}^2), one-sided                      (1)
            differences     d_g = v_{g+1} - v_g, centred so that a steady trend is not called oscillation
            null            Cov(d) has se_g^2 + se_{g+1}^2 on its diagonal and -se_{g+1}^2 beside it          (2)
            excess          T = sum d_g^2 / sum (se_g^2 + se_{g+1}^2), compared with T under (2)              (3)
            alternation     lag-1 autocorrelation of d: -1/2 under equal se and no real change, not 0         (4)
            Cochran         Q = sum (v_g - weighted mean)^2 / se_g^2 ~ chi2(G - 1) when nothing changed       (5)
            ess             (sum w)^2 / sum w^2 with w = (1/K) / p: rows left to value the uniform policy     (6)
            psi             sum over bins (q_b - p_b) log(q_b / p_b)                                          (7)

Neighbouring differences share a value, so sum d_g^2 over its expectation is not chi2(G - 1); (3) and (4) are judged
against 4,000 draws of (2), which is exact for every pattern of standard errors. A real oscillation needs both: excess
variance, and alternation beyond the -1/2 that noise alone gives.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from counterlog.core.errors import LogError, message
from counterlog.core.results import Result
from counterlog.online.exploration import best_action

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]
NULL_DRAWS = 4_000
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Generation(Result):
    """One generation. Values are in reward units a decision; NaN where the source cannot tell.

    value, se             what the generation earned: mean reward of its known rows, and its standard error
    served, greedy        exact value of the policy that served, and of the next model's best actions (simulator only)
    uniform, best, regret value of uniform choice (by weighting when not exact), of the best choice, best - served
    gamma                 exploration parameter of the policy that served
    entropy               mean entropy of the served probabilities in nats; effective actions = exp(entropy)
    ess                   effective rows for valuing uniform choice on this batch (6)
    p_min, p_low          smallest propensity of the batch and its 1% quantile
    known                 rows with a known reward when the next model was fitted
    positive, least_share mean reward and share of the least-tried action among the rows of that fit
    off_best              share of those rows whose action was not the serving model's best
    calibration, calibration_explored   mean |mean reward - mean prediction| over ten bins, all rows and off-best rows
    explored_error_ratio  squared error off the best action divided by squared error on it
    psi, auc              shift of the training contexts against the generation before
    deployed, difference, difference_lower   whether the new model took over; its paired value difference, lower bound
    """

    generation: int
    n: int
    known: int
    value: float = math.nan
    se: float = math.nan
    served: float = math.nan
    greedy: float = math.nan
    uniform: float = math.nan
    best: float = math.nan
    regret: float = math.nan
    gamma: float = math.nan
    entropy: float = math.nan
    effective_actions: float = math.nan
    ess: float = math.nan
    p_min: float = math.nan
    p_low: float = math.nan
    positive: float = math.nan
    least_share: float = math.nan
    off_best: float = math.nan
    calibration: float = math.nan
    calibration_explored: float = math.nan
    explored_error_ratio: float = math.nan
    psi: float = math.nan
    auc: float = math.nan
    deployed: bool = True
    difference: float = math.nan
    difference_lower: float = math.nan
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Oscillation(Result):
    """Tests of a series of values with standard errors; p-values are under the null (2) that nothing changed.

    `verdict`: `too short`, `steady`, `unstable` (excess variance only) or `oscillating` (both).
    """

    n: int
    unit: str = "none"
    excess: float = math.nan
    excess_p: float = math.nan
    alternation: float = math.nan
    alternation_p: float = math.nan
    cochran: float = math.nan
    cochran_p: float = math.nan
    period: float = math.nan
    verdict: str = "too short"


@dataclass(frozen=True, kw_only=True)
class GenerationReport(Result):
    """Every generation, the oscillation test of their values, and the generations worse than the one before."""

    generations: tuple[Generation, ...]
    oscillation: Oscillation
    degraded: tuple[int, ...]
    unit: str
    n: int
    level: float = 0.95
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """One record a generation."""
        return [{k: v for k, v in asdict(g).items() if k != "shares"} for g in self.generations]


def make_report(
    generations: tuple[Generation, ...], *, unit: str, level: float = 0.95, notes: tuple[str, ...] = ()
) -> GenerationReport:
    """The report of a series; a generation is degraded when (1) is below its one-sided bound."""
    value, se = (np.array([getattr(g, k) for g in generations]) for k in ("value", "se"))
    z = degradation(value, se)
    worse = tuple(int(generations[i + 1].generation) for i in np.flatnonzero(z < norm.ppf(1 - level)))
    return GenerationReport(
        generations=generations,
        oscillation=oscillation(value, se),
        degraded=worse,
        unit=unit,
        n=sum(g.n for g in generations),
        level=level,
        notes=notes,
    )


def degradation(value: Floats, se: Floats) -> Floats:
    """Equation (1), (G - 1,): strongly negative means that the generation earned less than the one before."""
    spread = np.sqrt(se[1:] ** 2 + se[:-1] ** 2)
    return np.asarray(np.diff(value) / np.where(spread > 0, spread, np.inf), dtype=np.float64)


def alternation(d: Floats) -> Floats:
    """Equation (4) of centred differences (..., m): lag-1 autocorrelation."""
    total = (d * d).sum(axis=-1)
    return np.asarray(
        (d[..., 1:] * d[..., :-1]).sum(axis=-1) / np.where(total > 0, total, np.inf), np.float64
    )


def oscillation(value: Floats, se: Floats, *, rng: int = 0, draws: int = NULL_DRAWS) -> Oscillation:
    """Equations (3) to (5) for a series of at least 4 values with positive standard errors.

    Raises `LogError` when a value or a standard error is not a number.
    """
    v, s = np.asarray(value, dtype=np.float64), np.asarray(se, dtype=np.float64)
    if not (np.isfinite(v).all() and np.isfinite(s).all()):
        msg = message(
            "a generation has no value or no standard error", hint="leave out generations without rewards"
        )
        raise LogError(msg)
    if len(v) < 4 or not (s > 0).all():
        return Oscillation(n=len(v))
    noise = np.random.default_rng(rng).standard_normal((draws, len(v))) * s
    expected = float((s[1:] ** 2 + s[:-1] ** 2).sum())

    def statistics(series: Floats) -> tuple[Floats, Floats]:
        d = np.diff(series, axis=-1)
        d = d - d.mean(axis=-1, keepdims=True)
        return (d * d).sum(axis=-1) / expected, alternation(d)

    excess, turn = statistics(v)
    null_excess, null_turn = statistics(noise)
    excess_p = float((1 + np.count_nonzero(null_excess >= excess)) / (draws + 1))
    turn_p = float((1 + np.count_nonzero(null_turn <= turn)) / (draws + 1))
    weight = 1 / s**2
    q = float((weight * (v - np.average(v, weights=weight)) ** 2).sum())
    power = (
        np.abs(np.fft.rfft(v - np.polyval(np.polyfit(np.arange(len(v)), v, 1), np.arange(len(v))))[1:]) ** 2
    )
    verdict = "steady" if excess_p >= ALPHA else ("oscillating" if turn_p < ALPHA else "unstable")
    return Oscillation(
        n=len(v),
        excess=float(excess),
        excess_p=excess_p,
        alternation=float(turn),
        alternation_p=turn_p,
        cochran=q,
        cochran_p=float(chi2.sf(q, len(v) - 1)),
        period=len(v) / (1 + int(power.argmax())),
        verdict=verdict,
    )


def ess_of_uniform(propensity: Floats, eligible_count: Floats) -> float:
    """Equation (6), in rows."""
    w = 1.0 / (eligible_count * propensity)
    return float(w.sum() ** 2 / (w * w).sum())


def psi(old: Floats, new: Floats, bins: int = 10) -> float:
    """Equation (7) on bins of equal mass in `old`, the largest over the columns of (n, d); 0.25 is much."""
    found = 0.0
    for j in range(old.shape[1]):
        edges = np.unique(np.quantile(old[:, j], np.linspace(0, 1, bins + 1)[1:-1]))
        shares = []
        for sample in (old, new):
            counts = np.bincount(np.searchsorted(edges, sample[:, j], side="right"), minlength=len(edges) + 1)
            shares.append((counts + 0.5) / (len(sample) + 0.5 * (len(edges) + 1)))
        found = max(found, float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum()))
    return found


def shift_auc(old: Floats, new: Floats, *, rng: int = 0, most: int = 4_000) -> float:
    """AUC of a classifier that tells `new` rows from `old` ones, learnt on one half and judged on the other.

    0.5 is no shift. At most `most` rows of each are used.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(rng)
    parts = [s[random.permutation(len(s))[:most]] for s in (old, new)]
    x = np.vstack(parts)
    label = np.repeat([0, 1], [len(p) for p in parts])
    half = random.permutation(len(x)) % 2 == 0
    if min(len(np.unique(label[half])), len(np.unique(label[~half]))) < 2:
        return math.nan
    model = HistGradientBoostingClassifier(
        max_iter=30, max_leaf_nodes=8, early_stopping=False, random_state=rng
    )
    model.fit(x[half], label[half])
    return float(roc_auc_score(label[~half], model.predict_proba(x[~half])[:, 1]))


def calibration_error(predicted: Floats, reward: Floats, bins: int = 10) -> float:
    """Mean over bins of equal size of |mean reward - mean prediction|, weighted by rows; NaN without rows."""
    if not len(predicted):
        return math.nan
    group = np.argsort(np.argsort(predicted, kind="stable"), kind="stable") * min(bins, len(predicted))
    group //= len(predicted)
    gap = np.bincount(group, reward - predicted)
    return float(np.abs(gap).sum() / len(predicted))


def realizability(
    scores: Floats, eligible: Mask, action: Codes, reward: Floats
) -> tuple[float, float, tuple[tuple[float, float], ...]]:
    """Does the model also hold where it seldom acted?  (share of rows off the best action, error ratio, slopes).

    The ratio is mean squared error off the best action over that on it. Slopes: for thirds of the rows by predicted
    gap, (mean gap, slope of reward on prediction); 1 is calibrated.
    """
    rows = np.arange(len(action))
    f = scores[rows, action]
    best = best_action(scores, eligible)
    off = action != best
    error = (reward - f) ** 2
    both = off.any() and (~off).any() and error[~off].mean() > 0
    ratio = float(error[off].mean() / error[~off].mean()) if both else math.nan
    gap = scores[rows, best] - f
    slopes = []
    for part in np.array_split(np.argsort(gap, kind="stable"), 3):
        spread = f[part].var() if len(part) else 0.0
        slope = float(np.cov(f[part], reward[part], ddof=0)[0, 1] / spread) if spread > 0 else math.nan
        slopes.append((float(gap[part].mean()) if len(part) else math.nan, slope))
    return float(off.mean()), ratio, tuple(slopes)


def batch_facts(
    *,
    action: Codes,
    propensity: Floats,
    eligible: Mask,
    reward: Floats,
    known: Mask,
    scores: Floats,
    probs: Floats | None,
) -> dict[str, Any]:
    """The fields of `Generation` that one logged batch decides. (n,) or (n, k); `scores` of the model that served."""
    r, f = reward[known], scores[np.arange(len(action)), action][known]
    best = best_action(scores, eligible)
    off = (action != best)[known]
    w = 1.0 / (eligible.sum(axis=1) * propensity)
    total = w[known].sum()
    shares = np.bincount(action, minlength=scores.shape[1]) / len(action)
    entropy = math.nan
    if probs is not None:
        entropy = float(-(probs * np.log(np.where(probs > 0, probs, 1.0))).sum(axis=1).mean())
    _, ratio, _ = (
        realizability(scores[known], eligible[known], action[known], r) if known.any() else (0, math.nan, ())
    )
    return {
        "n": len(action),
        "known": int(known.sum()),
        "value": float(r.mean()) if len(r) else math.nan,
        "se": float(r.std(ddof=1) / math.sqrt(len(r))) if len(r) > 1 else math.nan,
        "uniform": float((w[known] * r).sum() / total) if total > 0 else math.nan,
        "entropy": entropy,
        "effective_actions": math.exp(entropy),
        "ess": ess_of_uniform(propensity, eligible.sum(axis=1)),
        "p_min": float(propensity.min()),
        "p_low": float(np.quantile(propensity, 0.01)),
        "calibration": calibration_error(f, r),
        "calibration_explored": calibration_error(f[off], r[off]),
        "explored_error_ratio": ratio,
        "shares": tuple(shares.tolist()),
    }
