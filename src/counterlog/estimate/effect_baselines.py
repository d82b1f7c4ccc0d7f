"""The estimators that stand beside an effect: OLS, 2SLS, LATE-DML, PLR-DML and GENIUS, with robust standard errors.

    OLS       Y on (1, A, Z, X)                                                                              (1)
    2SLS      the same without Z, A instrumented by Z                                                        (2)
    LATE-DML  interactive instrumental-variable score, Z valid, monotone                                      (3)
    PLR-DML   partially linear score given (Z, X), no hidden confounding                                      (4)
    GENIUS    sum (Z - f)(A - e_Z) Y / sum (Z - f)(A - e_Z) A, a constant effect (Tchetgen Tchetgen et al.)    (5)

Standard errors are HC1, by cluster where one is named; of the last three they take the nuisances as known.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from counterlog.core.nuisances import Floats
from counterlog.core.orthogonal import (
    Clusters,
    cluster_sums,
    interactive_iv,
    normal_estimate,
    partially_linear,
    solve,
    standard_error,
)
from counterlog.core.results import Estimate


def linear_iv(
    y: Floats, regressors: Floats, instruments: Floats, weight: Floats, cluster: Clusters = None
) -> tuple[float, float]:
    """Coefficient and robust standard error of the first regressor; OLS when the instruments are the regressors.

    beta = (X' P X)^{-1} X' P Y, P the projection on the instruments; columns that repeat others are dropped by the
    pseudo-inverse. The factor is n / (n - k), by cluster G / (G - 1) (n - 1) / (n - k).
    """
    root = np.sqrt(weight)[:, None]
    x, z, target = regressors * root, instruments * root, y * root[:, 0]
    fitted = x if regressors is instruments else z @ np.linalg.lstsq(z, x, rcond=1e-10)[0]
    bread = np.linalg.pinv(fitted.T @ fitted, rcond=1e-12, hermitian=True)
    beta = bread @ (fitted.T @ target)
    scores = fitted * (target - x @ beta)[:, None]
    n, k = len(y), int(np.linalg.matrix_rank(fitted))
    if cluster is None:
        factor = n / (n - k)
    else:
        scores = np.column_stack([cluster_sums(s, cluster) for s in scores.T])
        factor = len(scores) / (len(scores) - 1) * (n - 1) / (n - k)
    half = scores @ bread[:, 0]
    return float(beta[0]), float(np.sqrt(factor * (half @ half)))


def least_squares(
    y: Floats, a: Floats, controls: Floats, weight: Floats, cluster: Clusters = None
) -> tuple[float, float]:
    """(1)."""
    design = np.column_stack([a, np.ones(len(y)), controls])
    return linear_iv(y, design, design, weight, cluster)


def two_stage(
    y: Floats, a: Floats, z: Floats, controls: Floats, weight: Floats, cluster: Clusters = None
) -> tuple[float, float]:
    """(2)."""
    rest = np.column_stack([np.ones(len(y)), controls])
    return linear_iv(y, np.column_stack([a, rest]), np.column_stack([z, rest]), weight, cluster)


def genius(
    y: Floats, a: Floats, z: Floats, f: Floats, mean_a: Floats, weight: Floats, cluster: Clusters = None
) -> tuple[float, float]:
    """(5). `f` is the chance of Z = 1, `mean_a` the mean of A given Z and X."""
    lead = (z - f) * (a - mean_a)
    theta, influence = solve(lead * a, lead * y, weight)
    return theta, standard_error(influence, weight, cluster)


def baselines(
    y: Floats,
    a: Floats,
    z: Floats,
    x: Floats,
    *,
    f: Floats,
    mean_a: tuple[Floats, Floats],
    mean_y: tuple[Floats, Floats],
    weight: Floats,
    cluster: Clusters,
    level: float,
    **fields: Any,
) -> tuple[Estimate, ...]:
    """All five; f, mean_a, mean_y are cross-fitted predictions (n,), by arm where they depend on Z."""
    own_a, own_y = np.where(z == 1, mean_a[1], mean_a[0]), np.where(z == 1, mean_y[1], mean_y[0])
    late, late_if = solve(*interactive_iv(y, a, z, mean_y, mean_a, f), weight)
    plr, plr_if = solve(*partially_linear(y, a, own_y, own_a), weight)
    found = {
        "OLS of Y on A, Z, X": least_squares(y, a, np.column_stack([z, x]), weight, cluster),
        "2SLS": two_stage(y, a, z, x, weight, cluster),
        "LATE-DML": (late, standard_error(late_if, weight, cluster)),
        "PLR-DML": (plr, standard_error(plr_if, weight, cluster)),
        "GENIUS": genius(y, a, z, f, own_a, weight, cluster),
    }
    return tuple(
        normal_estimate(value, se, level=level, estimator=name, **fields)
        for name, (value, se) in found.items()
    )
