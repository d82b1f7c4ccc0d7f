"""How far a log's episodes go from a random policy to a reference policy.

    g(tau) = sum_t gamma^t r_t of each finished episode; gbar: their mean                                  (1)
    TQ     = (gbar(log) - gbar(random)) / (gbar(best) - gbar(random)),  never clipped                      (2)

The interval is a bootstrap over the log's episodes; `joint` redraws the episodes of the two references too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterlog.core.bootstrap import check_level, percentile_ends
from counterlog.core.episodes import Episodes
from counterlog.core.errors import SupportError, message

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
REPLICATES = 1000
BLOCK = 4_000_000
MANY = 50_000


@dataclass(frozen=True, kw_only=True)
class Quality:
    """TQ with its interval, and what it was made of. `quantiles`: of g(tau), on the scale of TQ, at `QUANTILES`."""

    value: float
    low: float
    high: float
    random_return: float
    best_return: float
    quantiles: tuple[float, ...]


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def finished(log: Episodes, limit: int | None = None) -> Flags:
    """(n,) episodes that ended by themselves or at the time limit; with `limit`, shorter cut ones do not count."""
    ended = log.terminated[log.last]
    if limit is None:
        return np.asarray(ended | log.truncated[log.last])
    return np.asarray(ended | (log.lengths >= limit))


def finished_returns(log: Episodes, gamma: float = 1.0, limit: int | None = None) -> Floats:
    """Equation (1) of the finished episodes. Raises `SupportError` when there is none."""
    done = finished(log, limit)
    if not done.any():
        msg = message(f"none of {log.n:,} episodes is finished", hint="check the time limit that was given")
        raise SupportError(msg)
    return log.returns(gamma)[done]


def trajectory_quality(returns: float | Floats, random: float, best: float) -> Floats:
    """Equation (2). Raises `SupportError` when the random policy does as well as the reference."""
    if not best > random:
        msg = message(
            f"the random return {random:g} is not below the reference return {best:g}",
            expected="a reference policy that beats the random one",
            hint="TQ is undefined or inverted; check which log is which",
        )
        raise SupportError(msg)
    return np.asarray((np.asarray(returns, np.float64) - random) / (best - random))


def resampled_means(values: Floats, gen: np.random.Generator, replicates: int = REPLICATES) -> Floats:
    """(replicates,) bootstrap means; of more than `MANY` values, normal draws with the mean's own deviation."""
    n = len(values)
    if n > MANY:
        off = values.std(ddof=1) / np.sqrt(n) * gen.standard_normal(replicates)
        return np.asarray(values.mean() + off)
    each = max(1, BLOCK // n)
    return np.concatenate(
        [
            values[gen.integers(0, n, (min(each, replicates - k), n))].mean(axis=1)
            for k in range(0, replicates, each)
        ]
    )


def quality(
    returns: Floats,
    random: float | Floats,
    best: float | Floats,
    *,
    level: float = 0.95,
    joint: bool = False,
    rng: int = 0,
) -> Quality:
    """TQ of a log's finished returns; `random` and `best` are mean returns, or the returns of their own logs."""
    check_level(level)
    low, high = float(np.mean(random)), float(np.mean(best))
    value = float(trajectory_quality(float(returns.mean()), low, high))
    gen = np.random.default_rng(rng)
    drawn = resampled_means(returns, gen)
    worst, top = (
        resampled_means(np.asarray(x), gen) if joint and np.ndim(x) else np.full(len(drawn), np.mean(x))
        for x in (random, best)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = (drawn - worst) / np.where(top > worst, top - worst, np.nan)
    ends = percentile_ends(replicates[np.isfinite(replicates)], level)
    return Quality(
        value=value,
        low=ends[0],
        high=ends[1],
        random_return=low,
        best_return=high,
        quantiles=tuple(trajectory_quality(np.quantile(returns, QUANTILES), low, high).tolist()),
    )
