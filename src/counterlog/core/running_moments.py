"""Mean and deviation of a stream, a seed each, whatever the chunks: for observations and for discounted returns.

Two sets with counts n, m, means a, b and sums of squares about them p, q make one (Chan's parallel form):

    mean = a + (b - a) m / (n + m),      squares = p + q + (b - a)^2 n m / (n + m)                     (1)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
FURTHEST, TINY = 10.0, 1e-8


class RunningMoments:
    """Count, mean and squares of (seeds, ..., size) numbers over all axes but the first and the last."""

    def __init__(self, seeds: int, size: int) -> None:
        self.count = 0
        self.mean, self.squares = np.zeros((seeds, size)), np.zeros((seeds, size))

    def update(self, x: NDArray[Any]) -> None:
        """Equation (1) with a chunk (seeds, n, size)."""
        m = x.shape[1]
        chunk = x.mean(axis=1, dtype=np.float64)
        squares = ((x - chunk[:, None]) ** 2).sum(axis=1)
        gap, total = chunk - self.mean, self.count + m
        self.squares += squares + gap**2 * (self.count * m / total)
        self.mean = self.mean + gap * (m / total)
        self.count = total

    @property
    def variance(self) -> Floats:
        """(seeds, size), divided by the count; 1 before anything was seen."""
        return self.squares / self.count if self.count else np.ones_like(self.squares)

    @property
    def divisor(self) -> Floats:
        """(seeds, size) deviation, a little above 0."""
        return np.sqrt(self.variance + TINY)

    def state(self) -> dict[str, Tensor]:
        """Count, mean, squares."""
        return {
            "count": torch.tensor(self.count),
            "mean": torch.from_numpy(self.mean),
            "squares": torch.from_numpy(self.squares),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.count = int(state["count"])
        self.mean, self.squares = state["mean"].numpy().copy(), state["squares"].numpy().copy()


class StateNormaliser:
    """(x - mean) / deviation, cut at +-10, of all states met so far. Switched off, states pass as they are."""

    def __init__(self, seeds: int, size: int, *, on: bool) -> None:
        self.moments, self.on = RunningMoments(seeds, size), on

    def __call__(self, x: NDArray[Any], *, update: bool) -> Tensor:
        """(seeds, n, size) -> float32; `update=False` leaves the moments alone (evaluation, successors)."""
        if not self.on:
            return torch.from_numpy(np.array(x, np.float32))  # a copy: environments may reuse their arrays
        if update:
            self.moments.update(x)
        scaled = (x - self.moments.mean[:, None]) / self.moments.divisor[:, None]
        return torch.from_numpy(np.asarray(scaled.clip(-FURTHEST, FURTHEST), np.float32))

    def state(self) -> dict[str, Tensor]:
        """The moments."""
        return self.moments.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.moments.restore(state)


class RewardNormaliser:
    """r over the deviation of the discounted return so far, G <- gamma G + r, cut at +-10. The mean stays."""

    def __init__(self, seeds: int, copies: int, gamma: float, *, on: bool) -> None:
        self.moments, self.gamma, self.on = RunningMoments(seeds, 1), gamma, on
        self.running = np.zeros((seeds, copies))

    def __call__(self, reward: Floats, done: NDArray[np.bool_]) -> Floats:
        """(seeds, copies) rewards of a step, and where episodes ended with it."""
        if not self.on:
            return reward
        self.running = self.gamma * self.running + reward
        self.moments.update(self.running[..., None])
        self.running[done] = 0.0
        return np.asarray((reward / self.moments.divisor).clip(-FURTHEST, FURTHEST))

    def denormalised(self, reward: Floats) -> Floats:
        """Back to the environment's unit (of rewards that were not cut)."""
        return reward * self.moments.divisor if self.on else reward

    def state(self) -> dict[str, Tensor]:
        """The moments and the running returns."""
        return {**self.moments.state(), "running": torch.from_numpy(self.running)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.running = state["running"].numpy().copy()
        self.moments.restore(state)
