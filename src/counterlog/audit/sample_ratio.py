"""Sample-ratio mismatch: were the actions taken as often as their known propensities say?

Use when    every action's propensity is known in every row: uniform, constant, or one constant per action.
Not when    propensities vary from row to row: the counts they imply are unknown, and the mean weights are used.
Data        Rounds(action, propensity), optionally unit, available
Paper       Fabijan, Gupchup, Gupta, Omhover, Qin, Vermeer, Dmitriev, "Diagnosing sample ratio mismatch in online
            controlled experiments", KDD 2019.
Equation    x2 = (N - E)' V^+ (N - E),   E_k = sum_i p_i(k),   V = sum_i (diag p_i - p_i p_i')               (1)
            p-value: chi-square with rank V degrees, or Monte Carlo when some E_k < 5
            V = sum_c d_c d_c', d_c = N_c - E_c of unit c, Hotelling, when units mix actions                   (2)
Shapes      N, E (actions,) counts of rows, or of units when a unit keeps its action
Units       counts
Raises      ConfigError: a threshold is outside its bounds. No valid log raises
Differs     when every unit has one action, units are counted instead of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.stats import chi2
from scipy.stats import f as f_dist

from counterlog.core.config import Config, param
from counterlog.core.multiplicity import holm
from counterlog.core.results import Finding
from counterlog.core.rounds import ESTIMATED, UNIFORM, Rounds
from counterlog.core.weight_means import constant_by_action, weight_means

CHECK = "sample ratio"
Floats = NDArray[np.float64]
REMEDY = (
    "do not analyse until the cause is known: look for rows lost after assignment (redirects, crashes, bot filters, "
    "joins), for an allocation that changed midway, and compare counts by day and by segment"
)


@dataclass(frozen=True, kw_only=True)
class SampleRatioConfig(Config):
    """Thresholds of the sample-ratio check."""

    alpha: float = param(0.001, "chance of a false alarm", above=0, below=1)
    stop_share: float = param(
        0.02, "share of rows in the wrong action from which it is `stop`", above=0, below=1
    )
    draws: int = param(9_999, "Monte Carlo draws when an expected count is below 5", at_least=99)
    sum_tolerance: float = param(0.01, "constant propensities must sum to 1 within this", above=0, below=1)


class SampleRatio:
    """The check. One finding, with one evidence record per action: observed, expected, share of the total."""

    def __init__(self, config: SampleRatioConfig = SampleRatioConfig()) -> None:
        self.config = config

    def check(self, log: Rounds, *, rng: int = 0) -> tuple[Finding, ...]:
        """Compare the counts with their expectations. `rng` draws the Monte Carlo counts."""
        c, k = self.config, len(log.actions)
        if log.propensity_role in (None, ESTIMATED):
            text = "the propensities are not known, so no expected counts either"
            return (
                Finding(
                    check=CHECK,
                    severity="ok",
                    message=text,
                    n=log.n,
                    evidence=_evidence(log, _counts(log.action, k)),
                ),
            )
        if k < 2:
            return (
                Finding(check=CHECK, severity="ok", message="only one action: nothing to compare", n=log.n),
            )
        if bool((log.propensity >= 1).all()):
            text = "every propensity is 1, so the counts are not random"
            return (Finding(check=CHECK, severity="ok", message=text, n=log.n),)
        keep = one_row_a_unit(log)
        action, what = log.action[keep], "rows" if len(keep) == log.n else "units"
        constant = constant_by_action(log.action, log.propensity, k)
        if log.propensity_role == UNIFORM and log.available is not None:
            listed = log.available[keep].astype(np.float64)
            chance = listed / listed.sum(axis=1, keepdims=True)
            expected, spread = chance.sum(axis=0), np.diag(chance.sum(axis=0)) - chance.T @ chance
        elif constant is not None and log.available is None:
            share = np.nan_to_num(constant)
            if abs(share.sum() - 1) > c.sum_tolerance:
                return (_wrong_sum(log, share, action, c.sum_tolerance),)
            share /= share.sum()
            expected = len(action) * share
            spread = len(action) * (np.diag(share) - np.outer(share, share))
        else:
            return (self._by_weights(log, keep),)
        counts = _counts(action, k)
        if log.available is None and expected.min() < 5:
            p = monte_carlo(counts, expected, draws=c.draws, rng=rng)
        elif log.unit is not None and what == "rows" and log.unit.max() + 1 < log.n and log.available is None:
            p = clustered(action, log.unit, expected / expected.sum())
        else:
            p = chi_square(counts, expected, spread)
        moved = float(np.abs(counts - expected).sum() / 2 / len(action))
        evidence = _evidence(log, counts, expected)
        if p >= c.alpha:
            text = f"the counts of {what} fit the propensities (p = {p:.2g})"
            return (
                Finding(
                    check=CHECK,
                    severity="ok",
                    message=text,
                    unit="p-value",
                    n=log.n,
                    value=p,
                    evidence=evidence,
                ),
            )
        worst = int(np.argmax(np.abs(counts - expected) / np.sqrt(np.maximum(expected, 1e-12))))
        text = (
            f"the counts do not fit the propensities (p = {p:.2g}): {log.actions[worst]!r} has {counts[worst]:,.0f} "
            f"{what} where {expected[worst]:,.0f} are expected; {moved:.1%} of the {what} are in the wrong action"
        )
        severity = "stop" if moved >= c.stop_share else "warning"
        return (
            Finding(
                check=CHECK,
                severity=severity,
                message=text,
                remedy=REMEDY,
                unit="p-value",
                n=log.n,
                value=p,
                evidence=evidence,
            ),
        )

    def _by_weights(self, log: Rounds, keep: NDArray[np.int64]) -> Finding:
        """Expected counts are unknown: the weight means say whether an action came too often or too rarely."""
        k = len(log.actions)
        available = None if log.available is None else log.available[keep]
        table = weight_means(log.action[keep], log.propensity[keep], k, available=available)
        p = float(np.nanmin(holm(table.p_high)))
        fits = p >= self.config.alpha
        text = (
            "propensities vary, so expected counts are unknown; by their mean weights the actions "
            f"{'came' if fits else 'did not come'} as often as the propensities say (p = {p:.2g})"
        )
        return Finding(
            check=CHECK,
            severity="ok" if fits else "warning",
            message=text,
            remedy="" if fits else REMEDY,
            unit="p-value",
            n=log.n,
            value=p,
            evidence=_evidence(log, _counts(log.action, k)),
        )


def chi_square(counts: Floats, expected: Floats, spread: Floats) -> float:
    """Equation (1) for independent draws with covariance `spread`; its rank gives the degrees of freedom."""
    gap = counts - expected
    values, vectors = np.linalg.eigh(spread)
    real = values > 1e-9 * max(values.max(), 1e-300)
    if np.any(np.abs(gap @ vectors[:, ~real]) > 1e-6 * max(expected.sum(), 1.0)):
        return 0.0
    statistic = float(((gap @ vectors[:, real]) ** 2 / values[real]).sum())
    return float(chi2.sf(statistic, int(real.sum())))


def clustered(action: NDArray[np.int64], unit: NDArray[np.int64], share: Floats) -> float:
    """Equation (2): Hotelling's test of the counts, summed by unit; draws may depend on each other within a unit.
    1 when there are too few units to tell."""
    units, k = int(unit.max()) + 1, len(share)
    counts = coo_array((np.ones(len(action)), (unit, action)), shape=(units, k)).tocsr()
    size = np.bincount(unit).astype(np.float64)
    cross = np.outer(np.asarray(counts.T @ size), share)
    spread = (counts.T @ counts).toarray() - cross - cross.T + (size**2).sum() * np.outer(share, share)
    gap = np.asarray(counts.sum(axis=0)) - len(action) * share
    values, vectors = np.linalg.eigh(spread)
    real = values > 1e-9 * max(values.max(), 1e-300)
    d = int(real.sum())
    if units <= 5 * d or d == 0:
        return 1.0
    statistic = float(((gap @ vectors[:, real]) ** 2 / values[real]).sum())
    return float(f_dist.sf(statistic * (units - d) / (d * max(units - 1, 1)), d, units - d))


def monte_carlo(counts: Floats, expected: Floats, *, draws: int, rng: int) -> float:
    """P-value of Pearson's statistic against multinomial draws; an impossible count gives 0."""
    possible = expected > 0
    if counts[~possible].any():
        return 0.0
    observed, mean = counts[possible], expected[possible]
    gen, n = np.random.default_rng(rng), int(counts.sum())
    statistic = ((observed - mean) ** 2 / mean).sum()
    reached, left = 1, draws
    while left > 0:
        some = min(left, max(1, 2_000_000 // len(mean)))
        drawn = gen.multinomial(n, mean / mean.sum(), size=some)
        reached += int((((drawn - mean) ** 2 / mean).sum(axis=1) >= statistic * (1 - 1e-12)).sum())
        left -= some
    return reached / (draws + 1)


def one_row_a_unit(log: Rounds) -> NDArray[np.int64]:
    """The rows to count: the first of every unit when each unit has one action only, else all rows."""
    if log.unit is None or log.unit.max() + 1 >= log.n:
        return np.arange(log.n)
    first, owner = np.unique(log.unit, return_index=True, return_inverse=True)[1:]
    same = log.action == log.action[first[owner]]
    return np.sort(first) if same.all() else np.arange(log.n)


def _counts(action: NDArray[np.int64], actions: int) -> Floats:
    return np.bincount(action, minlength=actions).astype(np.float64)


def _evidence(log: Rounds, counts: Floats, expected: Floats | None = None) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "action": str(a),
            "observed": int(counts[k]),
            **({} if expected is None else {"expected": float(expected[k])}),
            "share": float(counts[k] / max(counts.sum(), 1)),
        }
        for k, a in enumerate(log.actions)
    )


def _wrong_sum(log: Rounds, share: Floats, action: NDArray[np.int64], tolerance: float) -> Finding:
    total = float(share.sum())
    evidence = tuple(
        {**e, "propensity": float(share[k])}
        for k, e in enumerate(_evidence(log, _counts(action, len(share))))
    )
    if total > 1:
        text = (
            f"the constant propensities of the {len(share)} actions sum to {total:.3g}: they are too large, or not "
            "every action could be taken in every row"
        )
        remedy = "log the true probability of each action, or name the column of the available actions"
        return Finding(
            check=CHECK,
            severity="warning",
            message=text,
            remedy=remedy,
            unit="sum of propensities",
            n=log.n,
            value=total,
            evidence=evidence,
        )
    text = (
        f"the constant propensities of the logged actions sum to {total:.3g}: decisions with the other {1 - total:.1%} "
        "of the probability are not in the log"
    )
    remedy = (
        "log every action, or divide the propensities by their sum if the other rows were left out on purpose"
    )
    return Finding(
        check=CHECK,
        severity="warning",
        message=text,
        remedy=remedy,
        unit="sum of propensities",
        n=log.n,
        value=total,
        evidence=evidence,
    )
