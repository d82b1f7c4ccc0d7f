"""Which k people should start: D-SSA, samples that double until selection and check agree.

Use when    spread is large and few sets suffice: the stop depends on the data, not on a worst case.
Not when    a certificate is to be reported: opim-c gives both bounds.
Data        Network
Paper       Nguyen, Thai, Dinh: Stop-and-Stare, SIGMOD 2016, arXiv 1605.07990 (fixed version of 2018)
Equation    U(e, d) = (2 + 2/3 e) ln(1/d) / e^2                                                                  (1)
            e1 = I / Ic - 1,  e2 = eps sqrt(n (1 + eps) / (2^(t-1) Ic)),
            e3 = eps sqrt(n (1 + eps) (1 - 1/e - eps) / ((1 + eps/3) 2^(t-1) Ic))                                 (2)
            stop when (e1 + e2 + e1 e2)(1 - 1/e - eps) + (1 - 1/e) e3 <= eps                                      (3)
Shapes      I, Ic: the seeds' spread on the selecting and on the checking sample of round t
Units       I, Ic: expected active nodes
Raises      LogError: an unknown starter or candidate | SupportError: no candidate
            ConfigError: a parameter outside its bounds | MissingExtraError: numba is not installed
Differs     candidates may be fewer than the nodes; lt as well as ic
Builds on   opim-c (greedy coverage)
Call        DSSA().choose(network); with `starters`, each chooses among its own friends alone and the lists are united
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from counterlog.core.choice import Choice
from counterlog.core.config import Config, param
from counterlog.core.martingale import log_binomial
from counterlog.core.network import Network, Nodes
from counterlog.core.reverse_sets import MODELS, ReverseSampler
from counterlog.spread.opim_c import BEST, greedy
from counterlog.spread.own_lists import plain_choice, prepared, separate_lists


@dataclass(frozen=True, kw_only=True)
class DSSAConfig(Config):
    """How many seeds, and how close to the best."""

    seeds: int = param(50, "seeds, or friends a starter", at_least=1)
    model: str = param("ic", "independent cascades or linear thresholds", choices=MODELS)
    eps: float = param(0.1, "the choice is worth 1 - 1/e - eps of the best", above=0, below=BEST)
    delta: float | None = param(None, "chance that the guarantee fails; none: 1 / n", above=0, below=1)
    threads: int = param(0, "threads that draw sets; 0 is all cores", at_least=0)


def enough(eps: float, log_inverse: float) -> float:
    """Equation (1), with ln(1/d) given."""
    return (2.0 + 2.0 * eps / 3.0) * log_inverse / (eps * eps)


def excess(chosen: float, checked: float, n: int, eps: float, t: int) -> float:
    """The left side of (3) in round t."""
    scale = n * (1.0 + eps) / (2.0 ** (t - 1) * checked)
    e1, e2 = chosen / checked - 1.0, eps * math.sqrt(scale)
    e3 = eps * math.sqrt(scale * (BEST - eps) / (1.0 + eps / 3.0))
    return (e1 + e2 + e1 * e2) * (BEST - eps) + BEST * e3


class DSSA:
    """Dynamic stop-and-stare."""

    def __init__(self, config: DSSAConfig = DSSAConfig()) -> None:
        self.config = config

    def choose(
        self, network: Network, starters: ArrayLike = (), *, candidates: ArrayLike | None = None, rng: int = 0
    ) -> Choice:
        """The seeds, by `starters` each for itself when they are given."""
        c = self.config
        if np.size(starters):

            def pick(sampler: ReverseSampler, friends: Nodes, u: int) -> Nodes:
                return self.selected(sampler, friends, rng=rng + 1000 * u)[0]

            return separate_lists(network, starters, c.seeds, pick, c.model, "d-ssa", c.threads, rng)
        sampler, among = prepared(network, candidates, c.model, c.threads)
        node, sets = self.selected(sampler, among, rng=rng)
        return plain_choice(network, sampler, node, "d-ssa", rng, (f"selected on {sets:,} sets",))

    def selected(self, sampler: ReverseSampler, candidates: Nodes, *, rng: int = 0) -> tuple[Nodes, int]:
        """The seeds, and the size of the sample that chose them."""
        c, n = self.config, sampler.population
        k = min(c.seeds, len(candidates))
        log_delta = math.log(max(n, 2)) if c.delta is None else -math.log(c.delta)
        combinations = float(log_binomial(len(candidates), k))
        longest = (
            8 * BEST / (2 + 2 * c.eps / 3) * enough(c.eps, log_delta + math.log(6) + combinations) * n / k
        )
        rounds = max(1, math.ceil(math.log2(2.0 * longest / enough(c.eps, log_delta + math.log(3)))))
        base = enough(c.eps, log_delta + math.log(3 * rounds))
        needed = 1.0 + (1.0 + c.eps) * base
        selecting, checking, first, second = sampler.stream(rng, 1), sampler.stream(rng, 2), None, None
        for t in range(1, rounds + 1):
            size = math.ceil(base * 2.0 ** (t - 1))
            first, second = selecting.extended(first, size), checking.extended(second, size)
            chosen = greedy(first, candidates, sampler.n, k)
            met = second.covered(chosen.node, sampler.n)
            if met >= needed and excess(chosen.covered * n / size, met * n / size, n, c.eps, t) <= c.eps:
                break
        return chosen.node, size
