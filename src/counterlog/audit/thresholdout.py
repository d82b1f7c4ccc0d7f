"""Thresholdout and SparseValidate: the two algorithms on plain means, in the order of draws of the paper.

    That = T + Lap(2 sigma)                                       at the start, and after each overfit              (1)
    |h - a| > That + Lap(4 sigma)  ->  h + Lap(sigma), budget - 1;    else a, free                                  (2)

T and sigma are in query ranges. `Holdout` in `reusable_holdout` wraps them for records, with bounds and a ledger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.core.errors import BudgetExhausted, ConfigError, message

Floats = NDArray[np.float64]
TRAIN, HOLDOUT, EXHAUSTED = "train", "holdout", "exhausted"
BLOCK = 512
SOURCES = np.array([TRAIN, HOLDOUT, EXHAUSTED])


class Noise:
    """Draws of a given scale from one generator; a Gaussian's scale is its standard deviation."""

    def __init__(self, law: str, rng: int) -> None:
        self.law, self.generator = law, np.random.default_rng(rng)
        laws: dict[str, Callable[[float], float]] = {
            "laplace": lambda scale: self.generator.laplace(0.0, scale),
            "gaussian": lambda scale: self.generator.normal(0.0, scale),
            "none": lambda scale: 0.0,
        }
        self.draw = laws[law]

    def coming(self) -> Iterator[float]:
        """Draws of scale 1 in blocks; a draw of another scale is the same times that scale. `used` must follow."""
        self._blocks = 0
        while True:
            self._before, self._blocks = self.generator.bit_generator.state, self._blocks + 1
            yield from self._standard(BLOCK)

    def used(self, count: int) -> None:
        """Put the generator where `count` single draws would have left it."""
        if self.law != "none" and self._blocks:
            self.generator.bit_generator.state = self._before
            self._standard(count - (self._blocks - 1) * BLOCK)

    def _standard(self, count: int) -> list[float]:
        if self.law == "none":
            return [0.0] * count
        law = self.generator.laplace if self.law == "laplace" else self.generator.normal
        drawn: list[float] = law(0.0, 1.0, count).tolist()
        return drawn


def positive(**values: float) -> None:
    """Raise `ConfigError` for the first value that is not a finite number above 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            msg = message(
                f"{name} = {value}", expected=f"{name} > 0", hint="use noise='none' for no noise at all"
            )
            raise ConfigError(msg)


class Thresholdout:
    """The paper's algorithm on two means in [0, 1]. Draws, in order: That; eta a question; on an overfit That, then xi.

    `draw(scale)` replaces the generator, to replay a transcript.
    """

    def __init__(
        self,
        threshold: float,
        sigma: float,
        budget: int,
        *,
        noise: str = "laplace",
        rng: int = 0,
        draw: Callable[[float], float] | None = None,
    ) -> None:
        positive(threshold=threshold, sigma=sigma, budget=budget)
        self.threshold, self.sigma, self.left = threshold, sigma, int(budget)
        self._noise = None
        if draw is None:
            self._noise = Noise(noise, rng)
            draw = self._noise.draw
        self.draw = draw
        self.noisy_threshold = threshold + self.draw(2 * sigma)

    def ask(self, train: float, holdout: float) -> tuple[float, str]:
        """(answer, source) for one question; (nan, `exhausted`) once the budget is spent."""
        if self.left < 1:
            return math.nan, EXHAUSTED
        if abs(holdout - train) > self.noisy_threshold + self.draw(4 * self.sigma):  # equation (2)
            self.left -= 1
            self.noisy_threshold = self.threshold + self.draw(2 * self.sigma)  # equation (1)
            return holdout + self.draw(self.sigma), HOLDOUT
        return train, TRAIN

    def answers(self, train: ArrayLike, holdout: ArrayLike) -> tuple[Floats, NDArray[np.str_]]:
        """(m,) answers and sources of m questions in order: the same draws and transcript as m calls of `ask`."""
        a = np.asarray(train, dtype=np.float64)
        h = np.asarray(holdout, dtype=np.float64)
        if self._noise is None:
            told = [self.ask(x, y) for x, y in zip(a.tolist(), h.tolist(), strict=True)]
            return np.array([v for v, _ in told]), np.array([s for _, s in told], dtype=SOURCES.dtype)
        coming = self._noise.coming().__next__
        limit, value, overfit, stop = self._transcript(np.abs(h - a).tolist(), coming)
        answers, source = a.copy(), np.zeros(len(a), dtype=np.int8)
        answers[overfit] = h[overfit] + value
        source[overfit] = 1
        answers[stop:], source[stop:] = math.nan, 2
        self._noise.used(stop + 2 * len(overfit))
        self.noisy_threshold, self.left = limit, self.left - len(overfit)
        return answers, SOURCES[source]

    def _transcript(
        self, gaps: list[float], unit: Callable[[], float]
    ) -> tuple[float, list[float], list[int], int]:
        """The loop of `answers` on draws of scale 1: (last threshold, release noise, overfit questions, end)."""
        wide, double, sigma, T = 4 * self.sigma, 2 * self.sigma, self.sigma, self.threshold
        limit, left = self.noisy_threshold, self.left
        noise: list[float] = []
        overfit: list[int] = []
        for i, gap in enumerate(gaps):
            if left < 1:
                return limit, noise, overfit, i
            if gap > limit + wide * unit():
                left -= 1
                limit = T + double * unit()
                noise.append(sigma * unit())
                overfit.append(i)
        return limit, noise, overfit, len(gaps)


class SparseValidate:
    """Accept or reject claims |train - holdout| <= T; only rejections cost. `noise="none"`: one bit, no noise."""

    def __init__(
        self,
        threshold: float,
        sigma: float,
        budget: int,
        *,
        noise: str = "laplace",
        rng: int = 0,
        draw: Callable[[float], float] | None = None,
    ) -> None:
        positive(threshold=threshold, sigma=sigma, budget=budget)
        self.threshold, self.sigma, self.left = threshold, sigma, int(budget)
        self.draw = draw or Noise(noise, rng).draw
        self.shift = self.draw(2 * sigma)

    def check(self, train: float, holdout: float, *, tolerance: float | None = None) -> bool:
        """Whether the claim is accepted, within `tolerance` instead of T where given. Raises `BudgetExhausted`."""
        if self.left < 1:
            refuse("this validation")
        limit = (self.threshold if tolerance is None else tolerance) + self.shift
        if abs(train - holdout) + self.draw(4 * self.sigma) <= limit:
            return True
        self.left -= 1
        self.shift = self.draw(2 * self.sigma)
        return False


def refuse(name: str) -> NoReturn:
    """Raise `BudgetExhausted` for the question `name`."""
    msg = message(
        f"no budget is left for {name!r}",
        hint="the holdout has told what it safely can: collect fresh rows, or decide on what was answered",
    )
    raise BudgetExhausted(msg)
