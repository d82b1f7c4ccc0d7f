"""First and second moments of a bandit estimator, its value and its standard error.

Every bandit estimator here has one shape over independent units (rows, clusters, trajectories, hash buckets):

    value = E[a] / E[size] + E[b] / E[c]                                                  (1)

`size` is the number of rows in the unit, 1 when units are rows. IPS, DM and DR have only `a`; SNIPS has only `b` and
`c`; SNDR has all three. A part that an estimator does not have is the constant 0 (a = 0; b = 0 over c = 1), so no
formula below needs a case for it. The influence of a unit on (1) is its first-order change,

    u = (a - A size) / E[size] + (b - R c) / E[c],    A = E[a]/E[size],  R = E[b]/E[c]     (2)

and the standard error is sd(u) / sqrt(n) with divisor n - 1. For a mean that is exactly s / sqrt(n). For a ratio it
is sqrt(n / (n - 1)) times the delta formula sqrt(sum (b - R c)^2) / sum c: the same divisor everywhere, so that SNIPS
with constant weights has exactly the standard error of the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.core.errors import LogError, SupportError, first_rows, message

Floats = NDArray[np.float64]
COLUMNS = ("a", "b", "c", "size")
_ABSENT = np.array([0.0, 0.0, 1.0, 1.0])
_GIVEN = {1: [0], 2: [1, 2], 3: [0, 1, 2], 4: [0, 1, 2, 3]}
_ROUNDING = 16 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Interval:
    """Ends and standard error in the value's unit; `se` is NaN for methods that have none."""

    lo: float
    hi: float
    se: float
    method: str
    level: float

    @property
    def width(self) -> float:
        """hi - lo."""
        return self.hi - self.lo


@dataclass(frozen=True, eq=False)
class Moments:
    """`n` units; `mean` (4,) and `cov` (4, 4), divisor n - 1, of (a, b, c, size) per unit. `cov` is NaN for n = 1."""

    n: int
    mean: Floats
    cov: Floats

    @classmethod
    def from_units(
        cls,
        a: ArrayLike | None = None,
        b: ArrayLike | None = None,
        c: ArrayLike | None = None,
        size: ArrayLike | None = None,
    ) -> Self:
        """From per-unit arrays (n,); `size` is the rows in every unit. Raises `LogError` for arrays that do not fit."""
        table = unit_table(a, b, c, size)
        mean, n = _means(table), len(table)
        table -= mean
        cov = table.T @ table / (n - 1) if n > 1 else np.full((4, 4), np.nan)
        return cls(n, mean, cov)

    @classmethod
    def from_sums(cls, n: int, sums: ArrayLike, cross_sums: ArrayLike) -> Self:
        """From raw sums (k,) and raw sums of products (k, k) over n units, as one aggregation pass gives them.

        k = 1 is (a), k = 2 is (b, c), k = 3 is (a, b, c), k = 4 is (a, b, c, size). An estimator without a ratio
        passes k = 1; a `c` that sums to 0 is a ratio without support. Raw sums lose the digits that mean^2 has above
        the variance: subtract a constant from rewards that are large and nearly alike. A variance below that rounding
        error counts as 0.
        """
        first = np.atleast_1d(np.asarray(sums, dtype=np.float64))
        second = np.atleast_2d(np.asarray(cross_sums, dtype=np.float64))
        if first.ndim != 1 or len(first) not in _GIVEN or second.shape != (len(first),) * 2:
            msg = message(
                f"sums of shape {first.shape} with cross_sums of shape {second.shape}",
                expected="(k,) and (k, k) with k = 1 (a), 2 (b, c), 3 (a, b, c) or 4 (a, b, c, size)",
            )
            raise LogError(msg)
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            msg = message(
                "the sums hold values that are not finite",
                hint="look for missing rewards or weights in the log",
            )
            raise LogError(msg)
        if n < 1:
            msg = message(
                f"sums over {n} units", expected="at least one unit", hint="the log or segment is empty"
            )
            raise SupportError(msg)
        where = _GIVEN[len(first)]
        mean, cov = _ABSENT.copy(), np.zeros((4, 4))
        mean[where] = first / n
        if n == 1:
            return cls(1, mean, np.full((4, 4), np.nan))
        part = (second - np.outer(first, first) / n) / (n - 1)
        lost = np.diag(part) <= _ROUNDING * np.diag(second) / (n - 1)
        part[lost, :] = part[:, lost] = 0.0
        cov[np.ix_(where, where)] = part
        return cls(n, mean, cov)


def unit_table(
    a: ArrayLike | None, b: ArrayLike | None, c: ArrayLike | None, size: ArrayLike | None = None
) -> Floats:
    """(n, 4) columns a, b, c, size, absent parts as their constants. Raises `LogError` naming array and rows."""
    if (b is None) != (c is None) or (a is None and b is None):
        msg = message(
            "an estimator of no known shape",
            expected="`a` (a mean), `b` with `c` (a ratio), or all three",
            hint="SNIPS is b = weight * reward, c = weight",
        )
        raise LogError(msg)
    given = {
        name: np.asarray(v, dtype=np.float64)
        for name, v in zip(COLUMNS, (a, b, c, size), strict=True)
        if v is not None
    }
    shapes = {name: v.shape for name, v in given.items()}
    shape = next(iter(shapes.values()))
    if len(shape) != 1 or any(s != shape for s in shapes.values()):
        msg = message(f"per-unit arrays of shapes {shapes}", expected="one shape (n,) for all")
        raise LogError(msg)
    if shape[0] == 0:
        msg = message("no units", expected="at least one unit", hint="the log or segment is empty")
        raise SupportError(msg)
    for name, v in given.items():
        if not np.isfinite(v).all():
            rows = np.flatnonzero(~np.isfinite(v))
            msg = message(
                f"per-unit array {name!r} is not finite at {first_rows(rows)}",
                expected="finite numbers",
                hint="look for missing rewards, or weights with a propensity of 0",
            )
            raise LogError(msg)
    table = np.tile(_ABSENT, (shape[0], 1))
    for name, v in given.items():
        table[:, COLUMNS.index(name)] = v
    return table


def _means(table: Floats) -> Floats:
    """Column means, measured from the first row: a constant column has exactly its constant."""
    return np.asarray(table[0] + (table - table[0]).mean(axis=0))


def combine(sums: Floats) -> Floats:
    """Equation (1) over the last axis (a, b, c, size) of sums or means.

    Raises `SupportError` when a denominator is 0.
    """
    empty = (sums[..., 2] == 0) | (sums[..., 3] == 0)
    if empty.any():
        many = f" in {int(empty.sum())} of {empty.size} samples" if empty.ndim else ""
        msg = message(
            f"the denominator of the estimate is 0{many}: every weight in it is 0",
            expected="some logged decision that the policy would also make",
            hint="the log does not support this policy here; use a policy closer to the log, or the direct method",
        )
        raise SupportError(msg)
    value: Floats = sums[..., 0] / sums[..., 3] + sums[..., 1] / sums[..., 2]
    return value


def value(moments: Moments) -> float:
    """Equation (1). Raises `SupportError` when a denominator is 0."""
    return float(combine(moments.mean))


def standard_error(moments: Moments) -> float:
    """sqrt(g' cov g / n), g the gradient of (1): sd of (2) over sqrt(n).

    Raises `SupportError` for one unit or a denominator of 0.
    """
    combine(moments.mean)
    if moments.n < 2:
        msg = message(
            "one unit has no standard error",
            expected="at least 2 independent units",
            hint="bring more rounds or users",
        )
        raise SupportError(msg)
    a, b, c, size = moments.mean
    gradient = np.array([1 / size, 1 / c, -b / c**2, -a / size**2])
    terms = gradient[:, None] * moments.cov * gradient
    variance, noise = float(terms.sum()), _ROUNDING * float(np.abs(terms).sum())
    return math.sqrt(variance / moments.n) if variance > noise else 0.0


def influence(
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    c: ArrayLike | None = None,
    size: ArrayLike | None = None,
) -> Floats:
    """Equation (2), (n,) with mean 0: sd (divisor n - 1) over sqrt(n) is the standard error of the value.

    Give bucket sums as `a`, `b`, `c` and the rows a bucket as `size` to have it over hash buckets.
    """
    table = unit_table(a, b, c, size)
    mean = _means(table)
    combine(mean)
    first = (table[:, 0] - mean[0] / mean[3] * table[:, 3]) / mean[3]
    second = (table[:, 1] - mean[1] / mean[2] * table[:, 2]) / mean[2]
    return np.asarray(first + second)


def heaviest_share(u: ArrayLike) -> float:
    """Largest u^2 over the sum of u^2, for influence (n,): how much of the spread one unit carries, 0 without spread.

    Where it is large the normal approximation leans on that unit: the next log may hold a heavier one, or none.
    """
    square = np.asarray(u, dtype=np.float64) ** 2
    total = float(square.sum())
    return float(square.max()) / total if total > 0 else 0.0
