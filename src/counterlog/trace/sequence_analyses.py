"""What a ranking of training texts looks like: its tail, its layers, and whether word order matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import SupportError, message
from counterlog.trace.ekfac_influence import EKFACInfluence

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tail:
    """Positive influence against rank. `share[k]` is what the k + 1 best rows hold of all positive influence;
    1 / `slope` is the exponent of a Pareto tail, fitted on the best `used` rows; smaller slopes are thinner tails."""

    share: Floats
    slope: float
    used: int


def positive_tail(scores: Floats, share: float = 0.05) -> Tail:
    """Cumulative share and Hill's estimate of the tail on the best `share` of the positive scores (n,).

    Raises `SupportError` for fewer than 20 positive scores.
    """
    best = np.sort(scores[scores > 0])[::-1]
    if len(best) < 20:
        msg = message(f"{len(best)} rows have positive influence", expected="at least 20 for a tail")
        raise SupportError(msg)
    used = max(10, round(share * len(best)))
    used = min(used, len(best) - 1)
    slope = float(np.log(best[:used] / best[used]).mean())
    return Tail(best.cumsum() / best.sum(), slope, used)


def layers_by_rank(influence: EKFACInfluence, x_query: Any, y_query: Any, rows: NDArray[np.int64]) -> Floats:
    """(layers, k) share of every layer in |score| at each rank of one query's `rows` (k,): the heat map's numbers."""
    (found,) = influence.pair_details(x_query, y_query, rows[None])
    size = np.abs(np.stack([part.sum(axis=1) for part in found.values()]))
    return np.asarray(size / np.maximum(size.sum(axis=0), 1e-300))


def order_effect(
    influence: EKFACInfluence, x_query: Any, y_query: Any, told: tuple[Any, Any], turned: tuple[Any, Any]
) -> Floats:
    """(q,) share of influence that query j's text `told[j]` loses when its phrases are `turned[j]`: 1 is all of it."""
    before, after = (np.diag(influence.others(*rows).explain(x_query, y_query)) for rows in (told, turned))
    return np.asarray(1 - after / before)
