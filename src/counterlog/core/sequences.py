"""Confidence sequences: intervals that hold at every round at once, so a growing log may be watched.

A 95% interval for a fixed number of rounds covers 95% of the time at that number; whoever looks after every batch and
stops when it excludes something is wrong far more often. A confidence sequence covers the truth at all times together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import lambertw

from counterlog.core.bootstrap import check_level
from counterlog.core.errors import ConfigError, LogError, first_rows, message
from counterlog.core.moments import Floats, Interval, Moments, standard_error, value

NEED_BOUNDS = (
    "declare bounds=(lowest, highest) of the per-unit value, for IPS reward bounds times the largest weight"
)


def check_bounds(bounds: tuple[float, float] | None, method: str) -> tuple[float, float]:
    """Declared bounds, or `ConfigError` naming the method that cannot do without them."""
    if bounds is None:
        hint = f"{NEED_BOUNDS} that the logging policy allows (1 / smallest propensity), or use method='t'"
        raise ConfigError(
            message(f"{method} needs the range of the per-unit values and none was declared", hint=hint)
        )
    lo, hi = float(bounds[0]), float(bounds[1])
    if not (np.isfinite([lo, hi]).all() and lo < hi):
        msg = message(f"bounds=({lo:g}, {hi:g})", expected="two finite numbers, the lower one first")
        raise ConfigError(msg)
    return lo, hi


def check_inside(y: Floats, bounds: tuple[float, float]) -> None:
    """Raises `LogError` naming the first units outside their declared bounds; the last axis is the unit."""
    slack = 1e-12 * (bounds[1] - bounds[0])
    outside = (y < bounds[0] - slack) | (y > bounds[1] + slack)
    if outside.any():
        rows = np.nonzero(outside)[-1]
        msg = message(
            f"per-unit value {y[outside][0]:g} breaks the declared bounds [{bounds[0]:g}, {bounds[1]:g}]: "
            f"{first_rows(rows)}",
            hint="widen the bounds to what is possible, not to what was seen; for IPS that is reward bounds times "
            "1 / smallest propensity",
        )
        raise LogError(msg)


def confidence_sequence(
    y: ArrayLike, bounds: tuple[float, float] | None, level: float = 0.95, *, largest_bet: float = 0.5
) -> tuple[Floats, Floats]:
    """Time-uniform ends (lo, hi) for the mean of bounded values `y` (..., n) in the order of their arrival.

    Empirical Bernstein with predictable plug-in (Waudby-Smith and Ramdas, 2024, theorem 2). With x = y rescaled to
    [0, 1], m_i and s2_i the running mean and variance (regularised by one prior value 1/2, variance 1/4), alpha =
    1 - level:

        bet_i = min( sqrt(2 log(2/alpha) / (s2_{i-1} i log(i + 1))), largest_bet )
        centre_t = sum bet_i x_i / sum bet_i
        half_t = (log(2/alpha) + sum (x_i - m_{i-1})^2 (-log(1 - bet_i) - bet_i)) / sum bet_i

    The ends returned are the running intersection, inside the bounds; `lo > hi` at some round has a chance below
    1 - level unless the mean drifts or the bounds are wrong. Raises `LogError` naming values outside the bounds.
    """
    check_level(level)
    lowest, highest = check_bounds(bounds, "a confidence sequence")
    if not 0 < largest_bet < 1:
        msg = message(f"largest_bet={largest_bet:g}", expected="a number between 0 and 1")
        raise ConfigError(msg)
    values = np.asarray(y, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] == 0 or not np.isfinite(values).all():
        msg = message(
            "values that are empty or not finite", expected="finite numbers (n,), in the order of arrival"
        )
        raise LogError(msg)
    check_inside(values, (lowest, highest))
    x = (values - lowest) / (highest - lowest)
    i = np.arange(1, x.shape[-1] + 1, dtype=np.float64)
    log_term = np.log(2 / (1 - level))
    mean = (0.5 + np.cumsum(x, axis=-1)) / (i + 1)
    spread = (0.25 + np.cumsum((x - mean) ** 2, axis=-1)) / (i + 1)
    bet = np.minimum(np.sqrt(2 * log_term / (_before(spread, 0.25) * i * np.log(i + 1))), largest_bet)
    loss = (x - _before(mean, 0.5)) ** 2 * (-np.log1p(-bet) - bet)
    stake = np.cumsum(bet, axis=-1)
    centre = np.cumsum(bet * x, axis=-1) / stake
    half = (log_term + np.cumsum(loss, axis=-1)) / stake
    lo = np.maximum.accumulate(np.maximum(centre - half, 0.0), axis=-1)
    hi = np.minimum.accumulate(np.minimum(centre + half, 1.0), axis=-1)
    return lowest + (highest - lowest) * lo, lowest + (highest - lowest) * hi


def _before(running: Floats, start: float) -> Floats:
    """The running quantity one round earlier, `start` before the first."""
    first = np.full((*running.shape[:-1], 1), start)
    return np.concatenate([first, running[..., :-1]], axis=-1)


def rho_for(n: int, level: float = 0.95) -> float:
    """The `rho` that makes `asymptotic_cs` narrowest at n units: sqrt((-W_{-1}(-alpha^2 / e) - 1) / n)."""
    alpha = 1 - check_level(level)
    if n < 1:
        msg = message(f"n={n}", expected="at least 1 unit")
        raise ConfigError(msg)
    return float(np.sqrt((-lambertw(-(alpha**2) / np.e, k=-1).real - 1) / n))


def cs_factor(n: ArrayLike, level: float, rho: float) -> Floats:
    """How many standard errors an asymptotic confidence sequence reaches to either side after n units.

    sqrt( 2 (n rho^2 + 1) / (n rho^2) * log( sqrt(n rho^2 + 1) / alpha ) )
    """
    alpha = 1 - check_level(level)
    if not rho > 0:
        msg = message(f"rho={rho!r}", expected="above 0", hint="rho_for(n, level) is narrowest at n units")
        raise ConfigError(msg)
    v = np.asarray(n, dtype=np.float64) * rho**2
    return np.asarray(np.sqrt(2 * (v + 1) / v * np.log(np.sqrt(v + 1) / alpha)))


def asymptotic_cs(moments: Moments, level: float = 0.95, rho: float | None = None) -> Interval:
    """The asymptotic confidence sequence at n units (Waudby-Smith et al., 2024, theorem 2.2), from moments alone.

    Holds for means and, by linearisation, for ratios, for all n from a large enough start on; it needs no bounds.
    `rho` must be fixed before looking (`rho_for(n_planned)`); by default it is tuned to 1,000 units.
    """
    se = standard_error(moments)
    half = float(cs_factor(moments.n, level, rho_for(1000, level) if rho is None else rho)) * se
    point = value(moments)
    return Interval(point - half, point + half, se, "asymptotic cs", level)
