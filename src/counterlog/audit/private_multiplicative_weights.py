"""Private multiplicative weights: exponentially many adaptive questions about a small finite universe.

Use when    rows fall into N <= 1e6 cells (segments, small categorical logs) and very many linear questions will come.
Not when    records are continuous or the universe is larger: use `reusable_holdout`.
Data        counts per cell, and questions f: cell -> [0, 1] as vectors
Paper       Hardt and Rothblum (FOCS 2010); used as the answering mechanism in Dwork, Feldman, Hardt, Pitassi,
            Reingold, Roth: Preserving Statistical Validity in Adaptive Data Analysis (STOC 2015).
Equation    |<f, S> - <f, D>| + ... <= That + Lap(4 sigma)  ->  <f, D>, free                                        (1)
            else  y = <f, S> + Lap(sigma),   D(x) <- D(x) exp(+-eta f(x)) / Z                                       (2)
Shapes      counts, f, D (N,) float64
Units       counts: rows | answers, T, sigma: share of rows, on [0, 1] | budget: updates, 4 ln N / T^2 suffice
Raises      LogError: negative or empty counts, a question outside [0, 1] or of another length
            ConfigError: T, sigma, eta or budget not positive | BudgetExhausted: no updates are left
Differs     `MedianMechanism` is a demonstration: sampled candidate databases stand for all of them.
Builds on   thresholdout
Call        PMW(counts, threshold=0.05, sigma=0.01).ask(f)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.audit.thresholdout import Noise, positive
from counterlog.core.errors import BudgetExhausted, LogError, message
from counterlog.core.results import Result

Floats = NDArray[np.float64]


def most_updates(universe: int, threshold: float) -> int:
    """4 ln N / T^2: updates after which D answers everything within T, at eta = T/2 and without noise."""
    return math.ceil(4 * math.log(universe) / threshold**2)


def reweighted(weights: Floats, question: Floats, step: float) -> Floats:
    """Equation (2): (N,) weights moved by exp(step f) and scaled to sum to 1."""
    moved = weights * np.exp(step * question)
    return np.asarray(moved / moved.sum())


def _shares(counts: ArrayLike) -> Floats:
    x = np.asarray(counts, dtype=np.float64)
    if x.ndim != 1 or x.size < 2 or not np.isfinite(x).all() or (x < 0).any() or x.sum() <= 0:
        msg = message(
            "the counts are not a table of cells", expected="(N,) numbers >= 0, N >= 2, with a positive sum"
        )
        raise LogError(msg)
    return np.asarray(x / x.sum())


def _question(f: ArrayLike, cells: int) -> Floats:
    x = np.asarray(f, dtype=np.float64)
    if x.shape != (cells,):
        msg = message(f"the question has shape {x.shape}", expected=f"({cells},), one value a cell")
        raise LogError(msg)
    if not (x.min() >= 0 and x.max() <= 1):
        msg = message(
            f"the question's values reach from {x.min():g} to {x.max():g}", expected="values in [0, 1]"
        )
        raise LogError(msg)
    return x


@dataclass(frozen=True, kw_only=True)
class Released(Result):
    """The public distribution D over the cells, which may be shared, and what it cost."""

    weights: tuple[float, ...]
    updates: int
    budget_left: int
    threshold: float
    n: int
    unit: str = "share of rows"


class PMW:
    """The public distribution D, and how many updates it has taken. `draw(scale)` replaces the generator."""

    def __init__(
        self,
        counts: ArrayLike,
        *,
        threshold: float,
        sigma: float,
        eta: float | None = None,
        budget: int | None = None,
        noise: str = "laplace",
        rng: int = 0,
        draw: Callable[[float], float] | None = None,
    ) -> None:
        self.sample, self.n = _shares(counts), round(float(np.sum(counts)))
        cells = self.sample.size
        self.eta = threshold / 2 if eta is None else eta
        self.left = most_updates(cells, threshold) if budget is None else budget
        positive(threshold=threshold, sigma=sigma, eta=self.eta, budget=self.left)
        self.threshold, self.sigma, self.updates = threshold, sigma, 0
        self.draw = draw or Noise(noise, rng).draw
        self.weights = np.full(cells, 1 / cells)
        self.noisy_threshold = threshold + self.draw(2 * sigma)

    def ask(self, f: ArrayLike) -> float:
        """The share of rows, <f, S>, answered from D where that is close. Raises `BudgetExhausted`."""
        x = _question(f, self.sample.size)
        if self.left < 1:
            msg = message(
                f"all {self.updates} updates are used",
                hint="set a wider threshold, or collect fresh rows",
            )
            raise BudgetExhausted(msg)
        truth, guess = float(x @ self.sample), float(x @ self.weights)
        if abs(truth - guess) <= self.noisy_threshold + self.draw(4 * self.sigma):  # equation (1)
            return guess
        answer = truth + self.draw(self.sigma)
        self.weights = reweighted(self.weights, x, self.eta * float(np.sign(answer - guess)))  # equation (2)
        self.noisy_threshold = self.threshold + self.draw(2 * self.sigma)
        self.updates, self.left = self.updates + 1, self.left - 1
        return answer

    def released(self) -> Released:
        """D as it stands: every question may be asked of it for nothing."""
        weights = tuple(self.weights.tolist())
        return Released(
            weights=weights, updates=self.updates, budget_left=self.left, threshold=self.threshold, n=self.n
        )


class MedianMechanism:
    """Demonstration: candidate databases vote; a question whose weighted median is wrong drops the half that was."""

    def __init__(
        self,
        counts: ArrayLike,
        *,
        threshold: float,
        sigma: float,
        rows: int = 50,
        candidates: int = 1_000,
        noise: str = "laplace",
        rng: int = 0,
    ) -> None:
        positive(threshold=threshold, sigma=sigma, rows=rows, candidates=candidates)
        self.sample, self.threshold, self.sigma = _shares(counts), threshold, sigma
        source = Noise(noise, rng)
        self.draw, cells = source.draw, self.sample.size
        centres = source.generator.dirichlet(np.full(cells, 0.5), size=candidates)
        self.candidates = source.generator.multinomial(rows, centres) / rows
        self.misses = 0

    def ask(self, f: ArrayLike) -> float:
        """The candidates' median where it agrees with the sample. Raises `BudgetExhausted` when none is left."""
        x = _question(f, self.sample.size)
        if len(self.candidates) == 0:
            msg = message("every candidate database was ruled out", hint="use PMW, or more candidates")
            raise BudgetExhausted(msg)
        votes = self.candidates @ x
        median, truth = float(np.median(votes)), float(x @ self.sample)
        if abs(truth - median) + self.draw(4 * self.sigma) <= self.threshold:
            return median
        answer = truth + self.draw(self.sigma)
        self.candidates = (
            self.candidates[votes > median] if answer > median else self.candidates[votes < median]
        )
        self.misses += 1
        return answer
