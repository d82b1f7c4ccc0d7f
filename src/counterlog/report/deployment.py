"""Which policies to test next, and at what risk: value against risk, and SharpeRatio@k over the test budget k.

The truth is unknown, so the bootstrap stands in for it: the estimates on the whole log play the truth, and each of the
replicates plays a log that might have been collected. In a replicate the k policies that look best are put to the test;
best@k, worst@k and the spread std@k are what they would truly earn, and

    SharpeRatio@k = (max(best@k, J_b) - J_b) / std@k,    J_b the value of what was done.

It is the gain of the best policy tested for each unit of spread among those tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterlog.estimate.sharpe_ratio_at_k import curves_at_k, ranking
from counterlog.report.contest import Contest
from counterlog.report.wording import BASELINE

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RiskPoint:
    """A policy's gain over what was done, its standard error, and the share of replicates in which it is a loss.

    `worst` is the mean gain in the worst 5% of the replicates.
    """

    policy: str
    gain: float
    se: float
    loss_chance: float
    worst: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class AtK:
    """Testing the k policies that look best: means over the replicates, with the ends of the ratio's interval.

    `ratio` is NaN where the tested policies have no spread, as for k = 1. `regret` is what the best policy earns beyond
    the best of those tested.
    """

    k: int
    best: float
    worst: float
    spread: float
    ratio: float
    lo: float
    hi: float
    regret: float
    below: float
    unit: str


def risk_points(held: Contest) -> tuple[RiskPoint, ...]:
    """Every policy against what was done; of several that come to the same, the first."""
    if BASELINE not in held.names:
        return ()
    base = held.replicates[:, held.names.index(BASELINE)]
    points = []
    for j in distinct(held):
        e = held.estimates[j]
        gap = held.replicates[:, j] - base
        tail = np.sort(gap)[: max(1, len(gap) // 20)]
        points.append(
            RiskPoint(
                policy=e.policy,
                gain=held.compare(e.policy, BASELINE).value,
                se=float(gap.std(ddof=1)),
                loss_chance=float((gap < 0).mean()),
                worst=float(tail.mean()),
                unit=e.unit,
            )
        )
    return tuple(points)


def distinct(held: Contest) -> list[int]:
    """Places of the candidates: without what was done, and one of those that come to the same."""
    kept: list[int] = []
    for j, name in enumerate(held.names):
        if name != BASELINE and not any(held.compare(held.names[i], name).same for i in kept):
            kept.append(j)
    return kept


def at_k(held: Contest, *, level: float = 0.95) -> tuple[AtK, ...]:
    """SharpeRatio@k and what it is made of, for k = 1 to the number of candidates."""
    places = distinct(held)
    if BASELINE not in held.names or len(places) < 2:
        return ()
    truth = np.array([held.estimates[j].value for j in places])
    base = held.of(BASELINE).value
    names = [held.names[j] for j in places]
    picked = truth[ranking(held.replicates[:, places], names)]
    curves = curves_at_k(picked, base, base)
    unit = held.estimates[0].unit
    return tuple(
        _at({name: c[:, k] for name, c in curves.items()}, k + 1, unit, level) for k in range(len(places))
    )


def _at(curve: dict[str, Floats], k: int, unit: str, level: float) -> AtK:
    known = curve["SharpeRatio"][np.isfinite(curve["SharpeRatio"])]
    tails = ((1 - level) / 2, (1 + level) / 2)
    lo, hi = np.quantile(known, tails) if known.size else (np.nan, np.nan)
    return AtK(
        k=k,
        best=float(curve["best"].mean()),
        worst=float(curve["worst"].mean()),
        spread=float(curve["std"].mean()),
        ratio=float(known.mean()) if known.size else float("nan"),
        lo=float(lo),
        hi=float(hi),
        regret=float(curve["Regret best"].mean()),
        below=float(curve["violations"].mean()),
        unit=unit,
    )
