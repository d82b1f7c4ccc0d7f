"""What an effect by `invalid-iv-ate` leans on: relevance, the untestable assumption, single rows, weak identification.

    strength   n mean(D s)_+ / mean({s - D}^2),  s = D + (2Z-1)/f_Z (r_A^2 - V_Z)                             (1)
    bounds     ATE +- Gamma sd(r_A) sd(r_Y - delta r_G) mean(1/|D|)                                           (2)
    sway       (value_i - ATE) / (n - 1): what leaving row i out takes from the estimate, nuisances held           (3)
    robust     all t with n mean(g)^2 / Var(g) <= chi2,  g = (Z - f_1) D r_A (r_Y - t r_G)                      (4)

(2): were omega_1 - omega_0 up to Gamma sd(A | Z, X) sd(Y - delta A | Z, X), with both taken as constant, (2) of the
system would be off by that over D. Gamma is so the difference of two hidden correlations, one in each arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from counterlog.core.nuisances import Floats
from counterlog.core.orthogonal import Clusters, standard_error
from counterlog.core.weak_sets import WeakSet, weak_set
from counterlog.estimate.invalid_iv_result import Check, Relevance, Sensitivity

if TYPE_CHECKING:
    from counterlog.estimate.invalid_iv_answer import TripleRows

POINTS, BINS = 13, 30
SHARES = (0.001, 0.005, 0.01)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def strength(z: Floats, rows: TripleRows, weight: Floats) -> float:
    """(1): about 1 when D is noise; like a first-stage F."""
    correction = (2 * z - 1) / np.where(z == 1, rows.f, 1 - rows.f) * (rows.r_a**2 - rows.v_own)
    noise = float(np.average(correction**2, weights=weight))
    signal = float(np.average(rows.gap * (rows.gap + correction), weights=weight))
    return len(z) * max(signal, 0.0) / noise if noise > 0 else float("inf")


def relevance(z: Floats, rows: TripleRows, weight: Floats) -> Relevance:
    """The distribution of D and its strength."""
    D = rows.gap
    counts, edges = np.histogram(D, bins=BINS, weights=weight)
    inverse = weight / D**2
    return Relevance(
        mean=float(np.average(D, weights=weight)),
        sd=float(D.std()),
        quantiles=tuple(float(v) for v in np.quantile(D, QUANTILES)),
        negative=float(np.average(D < 0, weights=weight)),
        at_floor=float(np.average(rows.at_floor > 0, weights=weight)),
        outside=float(np.average(rows.outside > 0, weights=weight)),
        strength=strength(z, rows, weight),
        mean_shift=float(np.average(rows.mean_a[1] - rows.mean_a[0], weights=weight)),
        effective=float(inverse.sum() ** 2 / (inverse**2).sum()),
        edges=tuple(float(v) for v in edges),
        shares=tuple(float(v) for v in counts / counts.sum()),
    )


def bias_slope(rows: TripleRows, weight: Floats) -> float:
    """(2): the bias that a unit of Gamma can make, in units of the effect."""
    left_a = np.sqrt(np.average(rows.r_a**2, weights=weight))
    left_y = np.sqrt(np.average((rows.r_y - rows.delta * rows.r_g) ** 2, weights=weight))
    return float(left_a * left_y * np.average(1 / np.abs(rows.gap), weights=weight))


def sensitivity(value: float, se: float, slope: float, highest: float, level: float) -> Sensitivity:
    """(2) on a grid of Gamma."""
    gamma = np.linspace(0.0, highest, POINTS)
    half = float(ndtri(0.5 + level / 2)) * se
    low, high = value - gamma * slope, value + gamma * slope
    return Sensitivity(
        gamma=tuple(gamma.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        low_ci=tuple((low - half).tolist()),
        high_ci=tuple((high + half).tolist()),
        slope=slope,
        flips=abs(value) / slope,
        loses=max(0.0, abs(value) - half) / slope,
    )


def robust_set(
    z: Floats, rows: TripleRows, weight: Floats, cluster: Clusters, level: float, scale: float
) -> WeakSet:
    """(4)."""
    lead = (z - rows.f) * rows.gap * rows.r_a
    return weak_set(lead * rows.r_y, lead * rows.r_g, weight, cluster=cluster, level=level, scale=scale)


def omega_check(z: Floats, rows: TripleRows, weight: Floats, cluster: Clusters) -> Check:
    """Does r_A (r_Y - delta r_G) still depend on Z once omega(X) is taken out?"""
    left = rows.r_a * (rows.r_y - rows.delta * rows.r_g) - rows.omega
    centred = z - rows.f
    slope = float((weight * centred * left).sum() / (weight * centred**2).sum())
    error = standard_error(centred * (left - slope * centred) / np.mean(weight * centred**2), weight, cluster)
    return Check(
        name="hidden confounding by Z",
        coefficient=slope,
        z=slope / error if error > 0 else float("nan"),
        meaning="difference of omega between the arms that the effect by covariates does not take up; far from 0, the "
        "effect's form is too narrow or the assumption fails",
    )


def sway(
    value: Floats, weight: Floats, top: int
) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """(3): the rows that move the estimate most, and the estimate without the strongest shares of rows."""
    n, estimate = len(value), float(np.average(value, weights=weight))
    takes = weight * (value - estimate) / (n - weight)
    order = np.argsort(-np.abs(takes), kind="stable")
    rows = tuple(
        {"row": int(i), "sway": float(takes[i]), "estimate without it": estimate - float(takes[i])}
        for i in order[:top]
    )
    counts: Sequence[int] = sorted({max(1, round(share * n)) for share in SHARES})
    without = tuple(
        {"rows removed": count, "estimate": float(np.average(value[kept], weights=weight[kept]))}
        for count in counts
        for kept in [np.setdiff1d(np.arange(n), order[:count], assume_unique=True)]
    )
    return rows, without
