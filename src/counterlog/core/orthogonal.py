"""Orthogonal scores that are linear in the effect, their standard errors, and how repeated splits are combined.

    psi_i(theta) = b_i - a_i theta,   theta = sum w b / sum w a                                             (1)
    influence_i  = (b_i - a_i theta) / mean(w a)                                                            (2)
    se^2         = sum_c (sum_{i in c} w_i influence_i)^2 / n^2, c a cluster, or a row when rows are independent   (3)
    repeats      theta = median theta_r,  se^2 = median (se_r^2 + (theta_r - theta)^2)                       (4)

Weights have mean 1. (4) is the rule of Chernozhukov et al. (2018), section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from counterlog.core.errors import SupportError, message
from counterlog.core.results import Estimate

Floats = NDArray[np.float64]
Clusters = NDArray[np.int64] | None


def solve(a: Floats, b: Floats, weight: Floats) -> tuple[float, Floats]:
    """(1) and (2): the effect and its influence function (n,). Raises `SupportError` when sum w a is 0."""
    slope = float(np.mean(weight * a))
    if slope == 0 or not np.isfinite(slope):
        msg = message(
            "the score does not depend on the effect", hint="the treatment or instrument never varies"
        )
        raise SupportError(msg)
    theta = float(np.mean(weight * b) / slope)
    return theta, (b - a * theta) / slope


def cluster_sums(values: Floats, cluster: Clusters) -> Floats:
    """Sums by cluster; the values themselves when rows are independent."""
    return values if cluster is None else np.bincount(cluster, weights=values).astype(np.float64)


def standard_error(influence: Floats, weight: Floats, cluster: Clusters) -> float:
    """(3)."""
    return float(np.sqrt((cluster_sums(weight * influence, cluster) ** 2).sum()) / len(influence))


def over_repeats(thetas: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """(4): effect and standard error."""
    theta = float(np.median(thetas))
    spread = np.asarray(errors) ** 2 + (np.asarray(thetas) - theta) ** 2
    return theta, float(np.sqrt(np.median(spread)))


def normal_estimate(value: float, se: float, *, level: float, **fields: Any) -> Estimate:
    """`value` +- z se as an `Estimate`; the other fields as named."""
    half = float(ndtri(0.5 + level / 2)) * se
    return Estimate(
        value=value, lo=value - half, hi=value + half, se=se, level=level, interval="normal", **fields
    )


def partially_linear(y: Floats, a: Floats, mean_y: Floats, mean_a: Floats) -> tuple[Floats, Floats]:
    """(a, b) of the partially linear model: a = (A - E[A|X])^2, b = (A - E[A|X]) (Y - E[Y|X])."""
    residual = a - mean_a
    return residual**2, residual * (y - mean_y)


def interactive_iv(
    y: Floats, a: Floats, z: Floats, mean_y: tuple[Floats, Floats], mean_a: tuple[Floats, Floats], f: Floats
) -> tuple[Floats, Floats]:
    """(a, b) of the local effect with a 0/1 instrument: doubly robust contrasts of A and of Y by Z.

    `mean_y`, `mean_a` are the conditional means at Z = 0 and Z = 1, `f` the chance of Z = 1.
    """

    def contrast(value: Floats, means: tuple[Floats, Floats]) -> Floats:
        low, high = means
        return high - low + z * (value - high) / f - (1 - z) * (value - low) / (1 - f)

    return contrast(a, mean_a), contrast(y, mean_y)


def augmented_contrast(
    y: Floats, a: Floats, mean_y: tuple[Floats, Floats], propensity: Floats
) -> tuple[Floats, Floats]:
    """(a, b) of the average effect of a 0/1 treatment without hidden confounding (augmented inverse weighting)."""
    low, high = mean_y
    b = high - low + a * (y - high) / propensity - (1 - a) * (y - low) / (1 - propensity)
    return np.ones(len(y)), b
