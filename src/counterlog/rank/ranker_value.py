"""What would another ranker have earned on these lists? From the clicks alone, with an interval over queries.

V = mean over lists of sum_k c_k lambda(new rank of the item at k) / theta_k; theta the examination of the position
where it was clicked. lambda is DCG's discount, or the examination of the new rank (then V is expected clicks a
list, when clicks follow position times relevance). Items are ranked anew among those that were shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.bootstrap import bootstrap
from counterlog.core.clicks import Clicks
from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.hashing import scatter
from counterlog.core.ragged import owners
from counterlog.core.ranking_metrics import ranks
from counterlog.core.results import Estimate
from counterlog.rank.saved_rankers import Ranker

Floats = NDArray[np.float64]
METRICS = ("clicks", "dcg")
BUCKETS = 1024


def ranker_value(
    log: Clicks,
    ranker: Ranker | None,
    propensity: Any,
    *,
    metric: str = "clicks",
    clip: float | None = None,
    self_normalised: bool = False,
    level: float = 0.95,
    replicates: int = 1000,
    rng: int = 0,
) -> Estimate:
    """The value of `ranker`, or of the logged order when None. `propensity` (K,) examination by position, up to
    scale.

    `clip` bounds theta_1 / theta_k. `self_normalised` divides by the inverse-weighted clicks: the mean lambda that
    a relevant item gets, between 0 and 1, which does not depend on how many clicks there are.
    """
    if metric not in METRICS:
        raise ConfigError(message(f"metric={metric!r}", expected=f"one of {', '.join(METRICS)}"))
    theta = np.asarray(propensity, np.float64)
    if theta.ndim != 1 or len(theta) < log.depth or not (np.isfinite(theta) & (theta > 0)).all():
        msg = message(
            f"the curve has {theta.size} positions",
            expected=f"{log.depth} numbers above 0, one for each position",
        )
        raise LogError(msg)
    if not log.click.any():
        raise SupportError(message("the log has no click", hint="nothing can be valued"))
    theta = theta / theta[0]
    owner = owners(log.offsets)
    if ranker is None:
        rank = ranks(-log.position.astype(np.float64), log.offsets)
    else:
        rank = ranks(ranker.score(log.features)[log.doc], log.offsets)
    earned = theta[rank - 1] if metric == "clicks" else 1 / np.log2(rank + 1)
    weight = 1 / theta[log.position - 1]
    weight = log.click * (weight if clip is None else np.minimum(weight, clip))
    top = np.bincount(owner, weight * earned, minlength=log.lists)
    base = np.bincount(owner, weight, minlength=log.lists)
    bucket = scatter(log.query.astype(np.uint64), BUCKETS, salt=rng)
    used = np.unique(bucket)
    cut = [np.bincount(bucket, v, minlength=BUCKETS)[used] for v in (top, base, np.ones(log.lists))]
    zero = np.zeros(len(used))
    sums = np.column_stack([zero, cut[0], cut[1]] if self_normalised else [cut[0], zero, cut[2]])
    found = bootstrap(sums, cut[2], level=level, replicates=replicates, rng=rng)
    value = float(cut[0].sum() / (cut[1] if self_normalised else cut[2]).sum())
    kind = "clicks" if metric == "clicks" else "discounted gain"
    clicked = weight[weight > 0]
    return Estimate(
        value=value,
        lo=found.lo,
        hi=found.hi,
        se=found.se,
        unit=f"share of the best {kind} a relevant item" if self_normalised else f"{kind} a list",
        n=len(np.unique(log.query)),
        level=level,
        interval="bootstrap over queries",
        policy="logged order" if ranker is None else ranker.name,
        estimator="self-normalised IPS" if self_normalised else "IPS" if clip is None else "clipped IPS",
        reward=metric,
        ess=float(clicked.sum() ** 2 / (clicked**2).sum()),
        notes=("the curve is taken as exact; only items that were shown are ranked",),
    )
