"""Poisson bootstrap over units or hash buckets: one matrix of multiplicities serves every policy and segment.

In a replicate, every bucket counts Poisson(1) times, independently. The numerators and denominators of all policies
are then one matrix product, multiplicities (B, M) times sums (M, 3 P + 1), and the ratio is formed anew in every
replicate. Buckets must keep a unit whole (hash the unit), and they need not be more than a few thousand.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.moments import Floats, Interval, combine

Multiplicities = NDArray[np.uint8]
BOOTSTRAPS = ("percentile", "bca")
_BLOCK = 4_000_000  # multiplicities held as float64 at a time


def check_level(level: float) -> float:
    """`level`, or `ConfigError` when it is not between 0 and 1."""
    if not 0 < level < 1:
        msg = message(f"level={level!r}", expected="a number between 0 and 1", hint="0.95 is a 95% interval")
        raise ConfigError(msg)
    return float(level)


def poisson_multiplicities(buckets: int, replicates: int = 1000, rng: int = 0) -> Multiplicities:
    """(replicates, buckets) counts, each Poisson(1), one byte each. Make it once and share it between policies."""
    if buckets < 2 or replicates < 2:
        msg = message(f"{replicates} replicates of {buckets} buckets", expected="at least 2 of each")
        raise SupportError(msg)
    gen = np.random.default_rng(rng)
    counts = np.empty((replicates, buckets), dtype=np.uint8)
    for block in _blocks(replicates, buckets):
        counts[block] = gen.poisson(1.0, size=counts[block].shape)
    return counts


def _blocks(replicates: int, buckets: int) -> list[slice]:
    """Slices of the replicates so that one slice holds about `_BLOCK` numbers."""
    step = max(1, _BLOCK // buckets)
    return [slice(i, i + step) for i in range(0, replicates, step)]


def _checked(sums: ArrayLike, counts: ArrayLike) -> tuple[Floats, bool]:
    """(M, P, 4) sums of (a, b, c, size), and whether there was but one policy."""
    parts, rows = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if parts.ndim not in (2, 3) or parts.shape[-1] % 3 or rows.shape != parts.shape[:1]:
        msg = message(
            f"sums of shape {parts.shape} with counts of shape {rows.shape}",
            expected="(M, 3) sums of (a, b, c) a bucket, or (M, P, 3), or (M, 3 P), with (M,) counts",
            hint="an estimator without a ratio has b = 0 and c = counts",
        )
        raise LogError(msg)
    if not (np.isfinite(parts).all() and np.isfinite(rows).all()):
        msg = message(
            "the bucket sums hold values that are not finite", hint="look for missing rewards or weights"
        )
        raise LogError(msg)
    single = parts.ndim == 2 and parts.shape[1] == 3
    parts = parts.reshape(len(rows), -1, 3)
    size = np.broadcast_to(rows[:, None, None], (*parts.shape[:2], 1))
    return np.concatenate([parts, size], axis=2), single


def replicate_values(sums: ArrayLike, counts: ArrayLike, multiplicities: Multiplicities) -> Floats:
    """The value in every replicate: (B,) for sums (M, 3), (B, P) for sums (M, P, 3) or (M, 3 P).

    `sums` holds the bucket sums of (a, b, c), `counts` (M,) the rows a bucket, which divide `a`; an estimator without
    a ratio has b = 0 and c = counts. Raises `SupportError` when a replicate has a denominator of 0.
    """
    table, single = _checked(sums, counts)
    buckets, policies = table.shape[:2]
    if multiplicities.ndim != 2 or multiplicities.shape[1] != buckets:
        msg = message(
            f"multiplicities of shape {multiplicities.shape} for {buckets} buckets",
            expected=f"(B, {buckets})",
        )
        raise LogError(msg)
    columns = np.column_stack([table[:, :, :3].reshape(buckets, -1), table[:, 0, 3]])
    totals = np.empty((len(multiplicities), columns.shape[1]))
    for block in _blocks(len(multiplicities), buckets):
        totals[block] = multiplicities[block].astype(np.float64) @ columns
    parts = totals[:, :-1].reshape(len(totals), policies, 3)
    size = np.broadcast_to(totals[:, -1, None, None], (len(totals), policies, 1))
    values = combine(np.concatenate([parts, size], axis=2))
    return values[:, 0] if single else values


def jackknife_values(sums: ArrayLike, counts: ArrayLike) -> Floats:
    """(M,) the value of one policy without each bucket in turn."""
    table, _ = _checked(sums, counts)
    return combine(table[:, 0].sum(axis=0) - table[:, 0])


def percentile_ends(replicates: Floats, level: float) -> tuple[float, float]:
    """The quantiles (1 - level) / 2 and (1 + level) / 2 of the replicates (B,)."""
    lo, hi = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


def bca_ends(value: float, replicates: Floats, jackknife: Floats, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated ends: quantiles of the replicates moved by the bias z0 and the acceleration k.

    z0 = ndtri(share of replicates below the value), ties counted half;  k = sum d^3 / (6 (sum d^2)^1.5),
    d = mean jackknife - jackknife.
    """
    below = float(np.mean(replicates < value) + np.mean(replicates == value) / 2)
    z0 = float(ndtri(np.clip(below, 0.5 / len(replicates), 1 - 0.5 / len(replicates))))
    d = jackknife.mean() - jackknife
    spread = float(np.sum(d**2))
    if spread == 0:
        return value, value
    k = float(np.sum(d**3)) / (6 * spread**1.5)
    z = z0 + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    lo, hi = np.quantile(replicates, ndtr(z0 + z / (1 - k * z)))
    return float(lo), float(hi)


def bootstrap(
    sums: ArrayLike,
    counts: ArrayLike,
    *,
    level: float = 0.95,
    replicates: int = 1000,
    method: Literal["percentile", "bca"] = "percentile",
    rng: int = 0,
    multiplicities: Multiplicities | None = None,
) -> Interval:
    """The interval of one policy from its bucket sums (M, 3) and rows a bucket (M,); `multiplicities` may be shared.

    `se` is the standard deviation of the replicates. Raises `SupportError` for fewer than 2 buckets, or when so few
    weights are positive that some replicate draws none of them.
    """
    check_level(level)
    if method not in BOOTSTRAPS:
        msg = message(f"bootstrap method {method!r}", expected=f"one of {', '.join(BOOTSTRAPS)}")
        raise ConfigError(msg)
    table, _ = _checked(sums, counts)
    if multiplicities is None:
        multiplicities = poisson_multiplicities(len(table), replicates, rng)
    point = float(combine(table[:, 0].sum(axis=0)))
    drawn = replicate_values(table[:, 0, :3], table[:, 0, 3], multiplicities)
    if method == "percentile":
        lo, hi = percentile_ends(drawn, level)
    else:
        lo, hi = bca_ends(point, drawn, jackknife_values(table[:, 0, :3], table[:, 0, 3]), level)
    return Interval(lo, hi, float(drawn.std(ddof=1)), f"bootstrap {method}", level)


def simultaneous(values: ArrayLike, replicates: ArrayLike, level: float = 0.95) -> tuple[Interval, ...]:
    """One interval a policy that hold all at once: value +- q sd, q the `level` quantile of max_p |T_p| (max-t).

    `values` (P,) and `replicates` (B, P) from one shared matrix of multiplicities; T_p = (replicate - value) / sd.
    A policy whose replicates are all alike has an interval of no width and no part in q.
    """
    check_level(level)
    point, drawn = np.asarray(values, dtype=np.float64), np.asarray(replicates, dtype=np.float64)
    if point.ndim != 1 or drawn.ndim != 2 or drawn.shape[1] != len(point) or len(drawn) < 2:
        msg = message(
            f"values of shape {point.shape} with replicates of shape {drawn.shape}",
            expected="(P,) and (B, P)",
        )
        raise LogError(msg)
    sd = drawn.std(axis=0, ddof=1)
    wide = sd > 1e-12 * np.abs(point)
    t = np.abs(drawn[:, wide] - point[wide]) / sd[wide]
    q = float(np.quantile(t.max(axis=1), level)) if wide.any() else 0.0
    half = np.where(wide, q * sd, 0.0)
    return tuple(
        Interval(float(v - h), float(v + h), float(s), "simultaneous", level)
        for v, h, s in zip(point, half, sd, strict=True)
    )
