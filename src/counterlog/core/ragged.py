"""Arithmetic on trajectories of unequal length that lie end to end in flat arrays.

`offsets` (n + 1,) says where each trajectory starts; no trajectory is empty. Products of probability ratios are
kept as `factor * exp(log)`: a product over 10,000 steps leaves the range of floats, its logarithm does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
LARGEST_LOG = 650.0


def lengths(offsets: Codes) -> Codes:
    """(n,) steps of each trajectory."""
    return np.diff(offsets)


def steps(offsets: Codes) -> Codes:
    """(N,) step of every row within its trajectory, counted from 0."""
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths(offsets))


def owners(offsets: Codes) -> Codes:
    """(N,) trajectory of every row."""
    return np.repeat(np.arange(len(offsets) - 1), lengths(offsets))


def sums(values: Floats, offsets: Codes) -> Floats:
    """(n,) sum over each trajectory."""
    return np.add.reduceat(values, offsets[:-1])


def running_sums(values: Floats, offsets: Codes) -> Floats:
    """(N,) cumulative sum that starts anew with every trajectory."""
    total = np.cumsum(values)
    before = total[offsets[:-1]] - values[offsets[:-1]]
    return np.asarray(total - np.repeat(before, lengths(offsets)), np.float64)


def running_logs(log_ratio: Floats, offsets: Codes) -> Floats:
    """(N,) logarithm of the running product; minus infinity from the first impossible action on."""
    possible, impossible = _split(log_ratio)
    product = running_sums(possible, offsets)
    return np.where(running_sums(impossible, offsets) > 0, -np.inf, product)


def window_logs(log_ratio: Floats, offsets: Codes, lag: int) -> Floats:
    """(N,) logarithm of the product over steps t-lag+1..t; before step `lag`, over steps 0..t."""
    if lag == 0:
        return np.zeros(len(log_ratio))
    possible, impossible = _split(log_ratio)
    product, count = running_sums(possible, offsets), running_sums(impossible, offsets)
    late = np.flatnonzero(steps(offsets) >= lag)
    windowed, zeros = product.copy(), count.copy()
    windowed[late] = product[late] - product[late - lag]
    zeros[late] = count[late] - count[late - lag]
    return np.where(zeros > 0, -np.inf, windowed)


def _split(log_ratio: Floats) -> tuple[Floats, Floats]:
    impossible = np.isneginf(log_ratio)
    return np.where(impossible, 0.0, log_ratio), impossible.astype(np.float64)


@dataclass(frozen=True)
class Weights:
    """Weights factor * exp(log), both (N,), on the rows of trajectories; a finished trajectory keeps its last."""

    factor: Floats
    log: Floats
    offsets: Codes

    @property
    def values(self) -> Floats:
        """(N,) the weights as numbers; infinite where they leave the range of floats."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(self.factor == 0, 0.0, self.factor * np.exp(self.log))

    @property
    def last(self) -> tuple[Floats, Floats]:
        """(n,) factor and logarithm at the last step of every trajectory."""
        end = self.offsets[1:] - 1
        return self.factor[end], self.log[end]

    def scale(self) -> tuple[Floats, Floats]:
        """(shift, mean), each (T,): the mean over all trajectories of the weight at step t is mean * exp(shift)."""
        t, size = steps(self.offsets), lengths(self.offsets)
        shift = np.full(int(size.max()), -np.inf)
        np.maximum.at(shift, t, self.log)
        factor, last = self.last
        ended = np.full(len(shift) + 1, -np.inf)
        np.maximum.at(ended, size, last)
        shift = np.maximum(shift, np.maximum.accumulate(ended)[:-1])
        shift = np.where(np.isfinite(shift), shift, 0.0)
        running = np.bincount(t, self.factor * np.exp(self.log - shift[t]), minlength=len(shift))
        top = float(np.max(last, initial=-np.inf, where=np.isfinite(last)))
        top = top if np.isfinite(top) else 0.0
        kept = np.cumsum(np.bincount(size, factor * np.exp(last - top), minlength=len(shift) + 1))[:-1]
        kept = np.where(kept == 0, 0.0, kept * np.exp(np.minimum(top - shift, LARGEST_LOG)))
        return shift, (running + kept) / (len(self.offsets) - 1)

    def squares(self) -> Weights:
        """The squared weights."""
        return Weights(self.factor**2, 2 * self.log, self.offsets)

    def effective(self, discount: float) -> float:
        """Kish's effective number of trajectories, (sum w)^2 / sum w^2 a step, averaged with weights discount^t."""
        shift, mean = self.scale()
        shift2, mean2 = self.squares().scale()
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            ratio = np.where(mean2 > 0, mean**2 / mean2 * np.exp(2 * shift - shift2), 0.0)
        gain = discount ** np.arange(len(shift))
        return float((len(self.offsets) - 1) * (gain @ ratio) / gain.sum())
