"""Certificates of a chosen seed group: what its spread is at least, and what no choice can exceed.

One sample selects, an independent one of the same size validates. Concentration of martingales (Tang, Tang, Xiao and
Yuan 2018) turns coverage on the second into a lower bound and a bound on the best coverage of the first
into an upper one; both samples double until their ratio reaches the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from counterlog.core.reverse_sets import ReverseSampler, ReverseSets

LEAST_SETS = 64
BYTES_A_MEMBER = 4 * 3  # two samples and the inverted lists of the first


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Choices in order: the list (starter) of each, its node, the sets it newly covered; `bound` is what no choice can
    cover more of."""

    owner: NDArray[np.int32]
    node: NDArray[np.int32]
    gained: NDArray[np.int64]
    bound: int

    @property
    def covered(self) -> int:
        """Sets covered by all choices."""
        return int(self.gained.sum())


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A selection with its bounds in expected active nodes, and the samples that gave them."""

    selection: Selection
    validated: int
    lower: float
    upper: float
    sets: int
    rounds: int
    reached: bool
    cut: bool
    first: ReverseSets
    second: ReverseSets


def lower_bound(covered: int, sets: int, population: int, a: float) -> float:
    """Expected active nodes, at least, with probability 1 - exp(-a), from coverage on an independent sample."""
    root = math.sqrt(covered + 2.0 * a / 9.0) - math.sqrt(a / 2.0)
    return max(0.0, (root * root if root > 0 else 0.0) - a / 18.0) * population / sets


def upper_bound(best: float, sets: int, population: int, a: float) -> float:
    """Expected active nodes, at most, with probability 1 - exp(-a), from a bound on the best coverage."""
    return min(float(population), (math.sqrt(best + a / 2.0) + math.sqrt(a / 2.0)) ** 2 * population / sets)


def log_binomial(n: Any, k: Any) -> Any:
    """ln of n choose k, elementwise; 0 for k >= n."""
    n, k = np.asarray(n, np.float64), np.minimum(np.asarray(k, np.float64), n)
    return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)


def certify(
    sampler: ReverseSampler,
    select: Callable[[ReverseSets], Selection],
    *,
    rng: int,
    first_sets: float,
    most_sets: float,
    delta: float,
    target: float,
    memory: float,
    progress: Callable[[str, float], None] | None = None,
) -> Certified:
    """Double both samples from `first_sets` until lower / upper >= target, `most_sets`, or `memory` bytes.

    delta / 3 is the chance that a lower bound of any round fails, and the same for upper bounds.
    """
    size = max(LEAST_SETS, math.ceil(first_sets))
    rounds = 1 + math.ceil(math.log2(max(most_sets / size, 1.0)))
    a = math.log(3.0 * rounds / delta)
    selecting, validating = sampler.stream(rng, 1), sampler.stream(rng, 2)
    first: ReverseSets | None = None
    second: ReverseSets | None = None
    for i in range(1, rounds + 1):
        first, second = selecting.extended(first, size), validating.extended(second, size)
        chosen = select(first)
        validated = second.covered(chosen.node, sampler.n)
        seeds = len(chosen.node)
        lower = max(lower_bound(validated, size, sampler.population, a), float(seeds))
        upper = max(upper_bound(chosen.bound, size, sampler.population, a), float(seeds))
        reached = lower >= target * upper
        members = len(first.nodes) + len(second.nodes)
        cut = not reached and i < rounds and 2 * (BYTES_A_MEMBER / 2 * members + 16 * size) > memory
        if progress is not None:
            progress(f"{2 * size:,} sets, certified {lower / upper:.3f} of {target:.3f}", i / rounds)
        if reached or cut or i == rounds:
            break
        size *= 2
    assert first is not None
    assert second is not None
    return Certified(
        selection=chosen,
        validated=validated,
        lower=lower,
        upper=upper,
        sets=size,
        rounds=i,
        reached=reached or i == rounds,
        cut=cut,
        first=first,
        second=second,
    )
