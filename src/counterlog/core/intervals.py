"""Intervals for the value of a policy: one place for every method, all from the same per-unit numbers.

    t, normal delta   value +- t_{1 - alpha/2, n - 1} se           approximate; means and ratios
    bootstrap         quantiles of Poisson replicates              approximate; means and ratios, skewed values
    hoeffding         (hi - lo) sqrt(log(2/alpha) / (2 n))          exact for every n; declared bounds, means only
    bernstein         sqrt(2 s^2 log(4/alpha) / n) + 7 (hi - lo) log(4/alpha) / (3 (n - 1))       likewise
    cs                confidence sequence: valid at all n together; declared bounds, means only

`n` counts independent units: rows, or clusters when rows of one unit (user) depend on each other.
Units: value, se, lo, hi and bounds in the unit of the reward. alpha = 1 - level. Moments and influence are in
`core.moments`, replicates in `core.bootstrap`, sequences in `core.sequences`; all names can be had from here.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from counterlog.core.bootstrap import (
    Multiplicities,
    bootstrap,
    check_level,
    poisson_multiplicities,
    replicate_values,
    simultaneous,
)
from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.moments import (
    Floats,
    Interval,
    Moments,
    combine,
    heaviest_share,
    influence,
    standard_error,
    unit_table,
    value,
)
from counterlog.core.sequences import asymptotic_cs, check_bounds, check_inside, confidence_sequence, rho_for

__all__ = [
    "METHODS",
    "Interval",
    "Moments",
    "Multiplicities",
    "adequate",
    "asymptotic_cs",
    "bernstein",
    "bootstrap",
    "confidence_sequence",
    "difference",
    "heaviest_share",
    "hoeffding",
    "influence",
    "lower_bound",
    "mean_ratio_interval",
    "poisson_multiplicities",
    "replicate_values",
    "rho_for",
    "rounds_for",
    "simultaneous",
    "standard_error",
    "t_interval",
    "value",
]

METHODS = ("t", "bootstrap", "bca", "hoeffding", "bernstein", "cs")
FEWEST_EFFECTIVE, SMALLEST_SHARE = 50, 0.01
HEAVIEST_SHARE, HEAVIEST_UNITS = 0.05, 30
BUCKETS = 4096
Method = Literal["t", "bootstrap", "bca", "hoeffding", "bernstein", "cs"]


def t_interval(moments: Moments, level: float = 0.95) -> Interval:
    """value +- t_{1 - alpha/2, n - 1} se, two-sided. Raises `SupportError` for one unit."""
    check_level(level)
    point, se = value(moments), standard_error(moments)
    half = float(stdtrit(moments.n - 1, 0.5 + level / 2)) * se
    return Interval(point - half, point + half, se, "t", level)


def lower_bound(moments: Moments, alpha: float = 0.05) -> float:
    """One-sided: the value is above it with confidence 1 - alpha. value - t_{1 - alpha, n - 1} se."""
    check_level(1 - alpha)
    return value(moments) - float(stdtrit(moments.n - 1, 1 - alpha)) * standard_error(moments)


def hoeffding(n: int, value: float, bounds: tuple[float, float] | None, level: float = 0.95) -> Interval:
    """value +- (hi - lo) sqrt(log(2/alpha) / (2 n)): holds for every n when each unit lies in `bounds`.

    Raises `ConfigError` without declared bounds, `LogError` for a value outside them.
    """
    check_level(level)
    lo, hi = check_bounds(bounds, "hoeffding")
    check_inside(np.array([value]), (lo, hi))
    if n < 1:
        msg = message(f"n={n}", expected="at least one unit")
        raise SupportError(msg)
    half = (hi - lo) * math.sqrt(math.log(2 / (1 - level)) / (2 * n))
    return Interval(value - half, value + half, math.nan, "hoeffding", level)


def bernstein(
    n: int, value: float, variance: float, bounds: tuple[float, float] | None, level: float = 0.95
) -> Interval:
    """Empirical Bernstein (Maurer and Pontil, 2009), two-sided; `variance` of the units with divisor n - 1.

    Raises `ConfigError` without declared bounds, `LogError` for a value outside them, `SupportError` for one unit.
    """
    check_level(level)
    lo, hi = check_bounds(bounds, "bernstein")
    check_inside(np.array([value]), (lo, hi))
    if n < 2:
        msg = message(f"n={n}", expected="at least 2 units for a variance")
        raise SupportError(msg)
    if not variance >= 0:
        msg = message(f"variance={variance!r}", expected="at least 0")
        raise LogError(msg)
    log_term = math.log(4 / (1 - level))
    half = math.sqrt(2 * variance * log_term / n) + 7 * (hi - lo) * log_term / (3 * (n - 1))
    return Interval(value - half, value + half, math.sqrt(variance / n), "bernstein", level)


def difference(
    first_value: float,
    first_influence: ArrayLike,
    second_value: float,
    second_influence: ArrayLike,
    *,
    level: float = 0.95,
) -> tuple[float, Interval]:
    """First minus second on the same units: the spread of the per-unit difference of influence, so what the two share
    cancels. Influence arrays (n,) come from `influence`, over rows, clusters or buckets."""
    one, two = np.asarray(first_influence, dtype=np.float64), np.asarray(second_influence, dtype=np.float64)
    if one.shape != two.shape or one.ndim != 1:
        msg = message(
            f"influence of shapes {one.shape} and {two.shape}", expected="the same units (n,) for both"
        )
        raise LogError(msg)
    point = first_value - second_value
    paired = t_interval(Moments.from_units(a=one - two), level)
    middle = (paired.lo + paired.hi) / 2
    ends = (point + paired.lo - middle, point + paired.hi - middle)
    return point, Interval(*ends, paired.se, "t paired", level)


def adequate(
    ess: float, n: int, se: float | None = None, heaviest: float | None = None, units: int | None = None
) -> tuple[bool, str]:
    """Whether an interval from an effective sample of `ess` rows out of n deserves its level, and why not.

    False below 50 effective rows, below 1% of the rows, for a spread of 0 (`se`, when given), or when one of the
    `units` (n when not given) carries more of the spread than 5% and than 30 average units together (`heaviest`, when
    given: `heaviest_share` of the influence). The last is what catches heavy weights: a log that happens to miss them
    has a large effective sample and a wrong interval.
    """
    if not ess >= FEWEST_EFFECTIVE:
        return False, f"the effective sample is {ess:.1f} rows, below {FEWEST_EFFECTIVE}"
    if ess / n < SMALLEST_SHARE:
        return False, f"the effective sample is {ess / n:.2%} of the rows, below {SMALLEST_SHARE:.0%}"
    if se is not None and not se > 0:
        return False, "all per-unit values are alike, so the log shows no spread to make an interval from"
    limit = max(HEAVIEST_SHARE, HEAVIEST_UNITS / (n if units is None else units))
    if heaviest is not None and heaviest > limit:
        return False, f"one unit carries {heaviest:.0%} of the spread, above {limit:.0%}"
    return True, ""


def rounds_for(se: float, n: int, effect: float, power: float = 0.8, level: float = 0.95) -> int:
    """Units needed in all to detect a difference of `effect` with `power` in a two-sided test at 1 - level.

    `se` is the standard error of that difference at n units; se falls as 1 / sqrt(n), so the answer is
    n ((z_{1 - alpha/2} + z_power) se / effect)^2, rounded up (normal approximation).
    """
    check_level(level)
    if not (0 < power < 1 and se >= 0 and n >= 1 and math.isfinite(effect) and effect != 0):
        msg = message(
            f"se={se!r}, n={n!r}, effect={effect!r}, power={power!r}",
            expected="se >= 0, n >= 1, an effect other than 0, and power between 0 and 1",
            hint="no number of rounds detects an effect of 0: give the smallest effect worth knowing",
        )
        raise ConfigError(msg)
    z = float(ndtri(0.5 + level / 2) + ndtri(power))
    return max(2, math.ceil(n * (z * se / effect) ** 2))


def _cluster_sums(table: Floats, clusters: ArrayLike) -> Floats:
    """(rows, 4) -> (clusters, 4): sums of a, b, c and rows a cluster."""
    labels = np.asarray(clusters)
    if labels.shape != table.shape[:1]:
        msg = message(f"clusters of shape {labels.shape} for {len(table)} rows", expected=f"({len(table)},)")
        raise LogError(msg)
    names, inverse = np.unique(labels, return_inverse=True)
    return np.column_stack([np.bincount(inverse, weights=column, minlength=len(names)) for column in table.T])


def _into_buckets(units: Floats, rng: int) -> Floats:
    """(n, 4) units summed into at most `BUCKETS` random buckets of equal number."""
    if len(units) <= BUCKETS:
        return units
    bucket = np.random.default_rng([rng, 1]).permutation(len(units)) % BUCKETS
    return np.column_stack([np.bincount(bucket, weights=column, minlength=BUCKETS) for column in units.T])


def mean_ratio_interval(
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    c: ArrayLike | None = None,
    *,
    level: float = 0.95,
    method: Method = "t",
    bounds: tuple[float, float] | None = None,
    clusters: ArrayLike | None = None,
    rng: int = 0,
) -> tuple[float, Interval]:
    """mean(a) + mean(b) / mean(c) over rows (n,), with its interval by `method`.

    With `clusters` (n,) labels, rows are summed within their cluster first and the interval counts clusters, not rows,
    as its independent units (t has clusters - 1 degrees of freedom); the value stays the value over rows. `bounds` are
    those of one row's `a`. `cs` takes the rows in their order in time. The bootstrap sums more than 4,096 units into
    4,096 random buckets first.

    Raises `LogError` for arrays that do not fit, are not finite or break `bounds`; `ConfigError` for a method that
    cannot do ratios, clusters of unequal size, or undeclared bounds; `SupportError` for one unit or all-zero weights.
    """
    check_level(level)
    if method not in METHODS:
        msg = message(f"interval method {method!r}", expected=f"one of {', '.join(METHODS)}")
        raise ConfigError(msg)
    rows = unit_table(a, b, c)
    point = float(combine(rows.mean(axis=0)))
    units = rows if clusters is None else _cluster_sums(rows, clusters)
    if method == "t":
        return point, t_interval(Moments.from_units(*units.T), level)
    if method in ("bootstrap", "bca"):
        table = _into_buckets(units, rng)
        kind: Literal["percentile", "bca"] = "percentile" if method == "bootstrap" else "bca"
        return point, bootstrap(table[:, :3], table[:, 3], level=level, method=kind, rng=rng)
    if b is not None:
        msg = message(
            f"{method} holds for means and this estimator has a ratio",
            hint="use method='t' or 'bootstrap', or an estimator without self-normalisation (IPS, DR)",
        )
        raise ConfigError(msg)
    limits = check_bounds(bounds, "a confidence sequence" if method == "cs" else method)
    check_inside(rows[:, 0], limits)
    if clusters is not None and (method == "cs" or np.ptp(units[:, 3]) > 0):
        msg = message(
            f"{method} over clusters of {units[:, 3].min():g} to {units[:, 3].max():g} rows",
            expected="independent rows, or clusters of one size (then not cs)",
            hint="use method='t' or 'bootstrap', or pass one mean a cluster, in time order for cs",
        )
        raise ConfigError(msg)
    y = units[:, 0] / units[:, 3]
    if method == "hoeffding":
        return point, hoeffding(len(y), point, limits, level)
    if method == "bernstein":
        spread = float(y.var(ddof=1)) if len(y) > 1 else math.nan
        return point, bernstein(len(y), point, spread, limits, level)
    lo, hi = confidence_sequence(y, limits, level)
    if lo[-1] > hi[-1]:
        msg = message(
            f"the confidence sequence is empty from row {int(np.argmax(lo > hi))} on",
            expected=f"a chance below {1 - level:g} if the mean stands still",
            hint="the value drifts over time: look at it by period",
        )
        raise SupportError(msg)
    return point, Interval(float(lo[-1]), float(hi[-1]), math.nan, "cs", level)
