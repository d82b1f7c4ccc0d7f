"""Confidence sets that hold however weak the identification: all effects that a score test does not reject.

    gbar(t) = mean w (y_i - t x_i),  y, x (n, K) the moments' two parts                                        (1)
    S(t)    = n gbar' Cov(g)^{-1} gbar  <=  chi2_{K, level}                                                      (2)

With one moment the set is an interval, the outside of an interval (the data cannot bound the effect on one side or
through infinity), or the whole line; it always holds the point estimate. With more moments than effects it can also be
empty: no effect fits all moments, so the model is rejected. Anderson and Rubin 1949; Stock and Wright 2000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2

from counterlog.core.orthogonal import Clusters, cluster_sums

Floats = NDArray[np.float64]
GRID = 2001


@dataclass(frozen=True)
class WeakSet:
    """`form`: bounded, unbounded (the outside of an interval, or a half-line), everything, empty."""

    form: str
    pieces: tuple[tuple[float, float], ...]
    level: float

    @property
    def meaning(self) -> str:
        """The form in a sentence."""
        return {
            "bounded": "effects in this range are not rejected, however weak the identification",
            "unbounded": "the data cannot bound the effect: identification is too weak at this level",
            "everything": "no effect is rejected: the data say nothing about its size",
            "empty": "every effect is rejected: the moments contradict each other, so the model is wrong",
        }[self.form]

    def holds(self, effect: float) -> bool:
        """Whether the effect is in the set."""
        return any(low <= effect <= high for low, high in self.pieces)


def weak_set(
    y: Floats, x: Floats, weight: Floats, *, cluster: Clusters = None, level: float = 0.95, scale: float = 1.0
) -> WeakSet:
    """(2) over the whole line; `scale` is a typical size of the effect, for the search."""
    y, x = y.reshape(len(y), -1), x.reshape(len(x), -1)
    parts = [
        np.column_stack([cluster_sums(weight * v[:, k], cluster) for k in range(v.shape[1])]) for v in (y, x)
    ]
    ys, xs = parts
    count, moments = ys.shape
    critical = float(chi2.ppf(level, moments))
    mean_y, mean_x = ys.mean(axis=0), xs.mean(axis=0)
    dy, dx = ys - mean_y, xs - mean_x
    yy, xy, xx = dy.T @ dy / count, dx.T @ dy / count, dx.T @ dx / count

    def statistic(angle: Floats) -> Floats:
        """S(t) - critical at t = scale tan(angle); homogeneous in (cos, sin), so that infinity is an angle too."""
        c, s = np.cos(angle), scale * np.sin(angle)
        g = c[:, None] * mean_y - s[:, None] * mean_x
        spread = (
            (c * c)[:, None, None] * yy - (c * s)[:, None, None] * (xy + xy.T) + (s * s)[:, None, None] * xx
        )
        return np.asarray(
            count * np.einsum("ij,ijk,ik->i", g, np.linalg.pinv(spread, hermitian=True), g) - critical
        )

    def excess(angle: float) -> float:
        return float(statistic(np.array([angle]))[0])

    angles = np.linspace(-math.pi / 2, math.pi / 2, GRID)
    values = statistic(angles)
    inside = values <= 0
    if moments == 1 and mean_x[0] != 0:  # the estimate itself is in, however narrow the set
        angles, inside = _with_root(angles, inside, math.atan(mean_y[0] / mean_x[0] / scale))
    if inside.all():
        return WeakSet("everything", ((-math.inf, math.inf),), level)
    if not inside.any():
        return WeakSet("empty", (), level)
    return _pieces(angles, inside, excess, scale, level)


def _with_root(angles: Floats, inside: NDArray[np.bool_], root: float) -> tuple[Floats, NDArray[np.bool_]]:
    at = int(np.searchsorted(angles, root))
    return np.insert(angles, at, root), np.insert(inside, at, True)


def _pieces(angles: Floats, inside: NDArray[np.bool_], excess: object, scale: float, level: float) -> WeakSet:
    """The runs of angles inside, their ends solved for."""
    assert callable(excess)
    crossings = np.flatnonzero(inside[1:] != inside[:-1])
    ends = [scale * math.tan(brentq(excess, angles[i], angles[i + 1], xtol=1e-14)) for i in crossings]
    bounds: Sequence[float] = [
        *([-math.inf] if inside[0] else []),
        *ends,
        *([math.inf] if inside[-1] else []),
    ]
    pieces = tuple((float(bounds[i]), float(bounds[i + 1])) for i in range(0, len(bounds), 2))
    bounded = all(math.isfinite(v) for piece in pieces for v in piece)
    return WeakSet("bounded" if bounded else "unbounded", pieces, level)
