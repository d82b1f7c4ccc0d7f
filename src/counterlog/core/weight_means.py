"""Mean inverse-propensity weight of every action in every cell of a log, its interval, and a test against 1.

If p is the probability with which the logged action was drawn, 1{a = k} / p has mean 1 over the rows in which k was
available, whatever the logging policy did, in every cell of the context. The interval is a gamma interval matched
to the mean and its (clustered) variance, widened by one more largest weight (Fay and Feuer, 1997), so that rare
actions keep their coverage. The test is a bet against the null: under it

    E(lambda) = prod_c (1 + lambda (y_c - 1)),   y_c = mean weight in unit c,   lambda in [-1/(B - 1), 1]

has mean at most 1 when weights lie in [0, B], so 1/E is a p-value for any number of rows and for adaptive logging. A
mean below 1 is only evidence as far as no weight above B was missed; a mean above 1 needs no such bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
BETS = 2.0 ** -np.arange(1, 17)


@dataclass(frozen=True)
class WeightMeans:
    """Arrays of shape (cells, actions). `p` is two-sided and not adjusted; it is NaN where no row could be tested.

    mean   mean weight over the rows in which the action was available (1 is right)
    lo, hi its interval
    rows   rows in which the action was available | logged  rows in which it was taken
    ess    effective number of logged rows, (sum w)^2 / sum w^2
    p_high one-sided p-value against a mean of at most 1: an action that could not be taken in some rows has a mean
           below 1 although its propensities are right, but nothing puts it above 1
    """

    mean: Floats
    lo: Floats
    hi: Floats
    p: Floats
    rows: Codes
    logged: Codes
    ess: Floats
    p_high: Floats


def constant_by_action(action: Codes, propensity: Floats, actions: int) -> Floats | None:
    """(actions,) the propensity of each action when it never changes (NaN where never logged), else None."""
    low, high = np.full(actions, np.inf), np.full(actions, -np.inf)
    np.minimum.at(low, action, propensity)
    np.maximum.at(high, action, propensity)
    seen = high > 0
    if np.any(high[seen] - low[seen] > 1e-9 * high[seen]):
        return None
    return np.where(seen, high, np.nan)


def fixed_split(log: Rounds) -> Floats | None:
    """(actions,) the propensities when each action has one that never changes and together they sum to 1, else None.

    Then every action could be taken in every row. Constants that sum to more say that some could not.
    """
    if log.available is not None:
        return None
    constant = constant_by_action(log.action, log.propensity, len(log.actions))
    return constant if constant is not None and abs(float(np.nansum(constant)) - 1) <= 0.01 else None


def largest_weights(action: Codes, propensity: Floats, actions: int) -> Floats:
    """(actions,) B: the largest weight that an action can have. 1/p where its propensity never changes, else the
    largest weight in the log."""
    constant = constant_by_action(action, propensity, actions)
    largest = 1.0 / propensity.min()
    return (
        np.full(actions, largest) if constant is None else 1.0 / np.where(constant > 0, constant, 1 / largest)
    )


def weight_means(
    action: Codes,
    propensity: Floats,
    actions: int,
    *,
    cell: Codes | None = None,
    cells: int = 1,
    unit: Codes | None = None,
    available: NDArray[np.bool_] | None = None,
    bound: Floats | None = None,
    level: float = 0.95,
) -> WeightMeans:
    """The table of `WeightMeans`. Rows of one `unit` count as one bet; `level` is that of each interval.

    action, propensity, cell, unit (n,); available (n, actions); bound (actions,) defaults to `largest_weights`.
    """
    n, weight = len(action), 1.0 / propensity
    cell = np.zeros(n, dtype=np.int64) if cell is None else cell
    bound = largest_weights(action, propensity, actions) if bound is None else bound
    if unit is None:
        group, cell_of, size = np.arange(n), cell, np.ones(n)
    else:
        keys, group = np.unique(cell * (int(unit.max()) + 1) + unit, return_inverse=True)
        cell_of = (keys // (int(unit.max()) + 1)).astype(np.int64)
        size = np.bincount(group).astype(np.float64)
    total, pair_cell, pair_action, pair_group = _pairs(action, weight, actions, group, cell_of, unit is None)
    rows, units, squares, pair_size = _margins(
        actions, cell, cells, group, cell_of, size, available, pair_action, pair_group
    )
    key, shape = pair_cell * actions + pair_action, (cells, actions)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = _add(key, total, shape) / rows
        spread = (
            _add(key, total**2, shape) - 2 * mean * _add(key, total * pair_size, shape) + mean**2 * squares
        )
        variance = np.maximum(spread, 0.0) / rows**2
        row_key = cell * actions + action
        plain = _add(row_key, weight, shape)
        ess = np.where(plain > 0, plain**2 / _add(row_key, weight**2, shape), 0.0)
    heaviest = np.zeros(cells * actions)
    np.maximum.at(heaviest, key, total)
    most = np.where(heaviest.reshape(shape) > 0, heaviest.reshape(shape), bound[None, :])
    lo, hi = gamma_interval(mean, variance, most / np.maximum(rows, 1), level)
    high, low = _bets(key, total / pair_size, units, shape, bound)
    p = np.minimum(2 * np.minimum(high, low), 1.0)
    tested = rows > 0
    logged = np.bincount(row_key, minlength=cells * actions).reshape(shape)
    return WeightMeans(
        mean=np.where(tested, mean, np.nan),
        lo=np.where(tested, lo, np.nan),
        hi=np.where(tested, hi, np.nan),
        p=np.where(tested, p, np.nan),
        rows=rows.astype(np.int64),
        logged=logged,
        ess=ess,
        p_high=np.where(tested, high, np.nan),
    )


def gamma_interval(mean: Floats, variance: Floats, one_more: Floats, level: float) -> tuple[Floats, Floats]:
    """Ends of the gamma interval; `one_more` is what one further row of the largest weight adds to the mean."""
    tail = (1 - level) / 2
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        v = np.maximum(variance, 1e-12 * mean**2)
        lo = np.where(mean > 0, gammaincinv(mean**2 / v, tail) * v / mean, 0.0)
        m, u = mean + one_more, v + one_more**2
        hi = gammaincinv(m**2 / u, 1 - tail) * u / m
    return lo, hi


def _add(key: Codes, values: Floats, shape: tuple[int, int]) -> Floats:
    total = np.bincount(key, values, minlength=shape[0] * shape[1]).reshape(shape)
    return np.asarray(total, dtype=np.float64)


def _pairs(
    action: Codes, weight: Floats, actions: int, group: Codes, cell_of: Codes, single: bool
) -> tuple[Floats, Codes, Codes, Codes]:
    """Weight, cell, action and group of every (group, action) that was logged."""
    if single:
        return weight, cell_of, action, group
    keys, inverse = np.unique(group * actions + action, return_inverse=True)
    owner = (keys // actions).astype(np.int64)
    sums: Floats = np.bincount(inverse, weight).astype(np.float64)
    return sums, cell_of[owner], (keys % actions).astype(np.int64), owner


def _margins(
    actions: int,
    cell: Codes,
    cells: int,
    group: Codes,
    cell_of: Codes,
    size: Floats,
    available: NDArray[np.bool_] | None,
    pair_action: Codes,
    pair_group: Codes,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Rows, units and sum of squared unit sizes per (cell, action), and the size of each pair's unit, all counted where
    the action was available."""
    if available is None:
        each = [np.bincount(cell, minlength=cells), np.bincount(cell_of, minlength=cells)]
        each.append(np.bincount(cell_of, size**2, minlength=cells))
        rows, units, squares = (np.repeat(e[:, None].astype(float), actions, axis=1) for e in each)
        return rows, units, squares, size[pair_group]
    rows, units, squares = (np.zeros((cells, actions)) for _ in range(3))
    pair_size = np.ones(len(pair_group))
    for k in range(actions):
        count = np.bincount(group, available[:, k], minlength=len(cell_of))
        rows[:, k] = np.bincount(cell_of, count, minlength=cells)
        units[:, k] = np.bincount(cell_of, count > 0, minlength=cells)
        squares[:, k] = np.bincount(cell_of, count**2, minlength=cells)
        mine = pair_action == k
        pair_size[mine] = count[pair_group[mine]]
    return rows, units, squares, pair_size


def _bets(
    key: Codes, y: Floats, units: Floats, shape: tuple[int, int], bound: Floats
) -> tuple[Floats, Floats]:
    """P-values against a mean of at most 1 and of at least 1: each side's wealth averaged over the bets `BETS`, the
    lower side's scaled to 1/(B - 1)."""
    actions = shape[1]
    lower = np.tile(1.9 / np.maximum(bound - 1.0, 1e-2), shape[0])
    if len(y) > 4 * shape[0] * actions and (same := _compress(key, y)) is not None:
        key, y, times = same
    else:
        times = np.ones(len(y))
    logs: list[Any] = [[], []]
    for bet in BETS:
        up = times * (np.log1p(bet * (y - 1)) - np.log1p(-bet))
        logs[0].append(_add(key, up, shape) + units * np.log1p(-bet))
        stake = bet * lower
        down = times * (np.log1p(-np.minimum(stake[key] * (y - 1), 0.999999)) - np.log1p(stake[key]))
        logs[1].append(_add(key, down, shape) + units * np.log1p(stake).reshape(shape))
    wealth = [np.logaddexp.reduce(np.array(side), axis=0) - np.log(len(BETS)) for side in logs]
    return np.exp(-np.maximum(wealth[0], 0.0)), np.exp(-np.maximum(wealth[1], 0.0))


def _compress(key: Codes, y: Floats) -> tuple[Codes, Floats, Floats] | None:
    """The distinct (key, y) and how often each occurs, when y takes few values."""
    if len(np.unique(y[:: max(1, len(y) // 2000)])) > 200:
        return None
    values, code = np.unique(y, return_inverse=True)
    if len(values) > 10_000:
        return None
    both, times = np.unique(key * len(values) + code, return_counts=True)
    return (both // len(values)).astype(np.int64), values[both % len(values)], times.astype(np.float64)
