"""Estimated propensities: a cross-fitted multinomial classifier of the action given the context.

Estimates stand in for a missing column and are labelled `estimated` in every result; they can only correct for what the
context holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import SupportError, message

if TYPE_CHECKING:
    from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]
TRIM = 1e-3


@dataclass(frozen=True)
class Propensities:
    """`matrix` (n, actions) sums to 1 over the available actions; `logged` (n,) is the logged action's
    entry, trimmed."""

    matrix: Floats
    logged: Floats


def estimate_propensity(log: Rounds, *, model: Any = "linear", folds: int = 3, rng: int = 0) -> Propensities:
    """P(action | context) by folds. Without context columns it is the share of each action in the other folds.

    Raises `SupportError` when an action is absent from the rows a fold is fitted on.
    """
    from counterlog.core.crossfit import folds_of, make_model, splits
    from counterlog.core.features import Encoder

    actions, x = len(log.actions), Encoder.fit(log.context).transform(log.context)
    matrix = np.empty((log.n, actions))
    for fit, rest in splits(folds_of(log, folds, rng=rng)):
        counts = np.bincount(log.action[fit], minlength=actions)
        if (counts == 0).any():
            rare = log.actions[int(np.flatnonzero(counts == 0)[0])]
            msg = message(
                f"action {rare!r} is too rare for its propensity to be estimated by cross-fitting",
                hint="log the propensities, merge rare actions, or drop rows of this action",
            )
            raise SupportError(msg)
        if x.shape[1] == 0 or actions < 2:
            matrix[rest] = counts / counts.sum()
            continue
        fitted = make_model(model, binary=True, rng=rng).fit(x[fit], log.action[fit])
        matrix[rest] = fitted.predict_proba(x[rest])
    if log.available is not None:
        matrix = np.where(log.available, matrix, 0.0)
        matrix /= matrix.sum(axis=1, keepdims=True)
    logged = np.maximum(matrix[np.arange(log.n), log.action], TRIM)
    return Propensities(matrix, logged)
