"""Which k people should start: IMM, a sample sized once from a lower bound on the best spread.

Use when    a guarantee of 1 - 1/e - eps is wanted with a sample whose size is known before the selection.
Not when    speed matters: opim-c stops as soon as its certificate is good enough.
Data        Network
Paper       Tang, Shi, Xiao: Influence Maximization in Near-Linear Time, SIGMOD 2015, doi:10.1145/2723372.2723734
            fresh final sample: Chen: An Issue in the Martingale Analysis of IMM, 2018, arXiv 1808.09363
Equation    x = n / 2^i,  theta_i = (2 + 2/3 e) (ln binom(N, k) + l ln n + ln log2 n) n / (e^2 x),  e = sqrt(2) eps  (1)
            LB = n F(S) / (1 + e) at the first i with n F(S) >= (1 + e) x                                          (2)
            theta = 2 n (b alpha + beta)^2 / (eps^2 LB),  b = 1 - 1/e                                              (3)
            alpha = sqrt(l ln n + ln 2),  beta = sqrt(b (ln binom(N, k) + l ln n + ln 2))
Shapes      N candidates, n nodes that count, l = ell (1 + ln 2 / ln n)
Units       LB, spread: expected active nodes
Raises      LogError: an unknown starter or candidate | SupportError: no candidate
            ConfigError: a parameter outside its bounds | MissingExtraError: numba is not installed
Differs     the final sample is fresh (the published algorithm keeps the one that chose LB); candidates may be fewer
Builds on   opim-c (greedy coverage)
Call        IMM().choose(network); with `starters`, each chooses among its own friends alone and the lists are united
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
from counterlog.core.reverse_sets import MODELS, ReverseSampler, ReverseSets
from counterlog.spread.opim_c import BEST, greedy
from counterlog.spread.own_lists import plain_choice, prepared, separate_lists


@dataclass(frozen=True, kw_only=True)
class IMMConfig(Config):
    """How many seeds, and how close to the best."""

    seeds: int = param(50, "seeds, or friends a starter", at_least=1)
    model: str = param("ic", "independent cascades or linear thresholds", choices=MODELS)
    eps: float = param(0.1, "the choice is worth 1 - 1/e - eps of the best", above=0, below=BEST)
    ell: float = param(1.0, "the guarantee fails with probability n^-ell", above=0)
    threads: int = param(0, "threads that draw sets; 0 is all cores", at_least=0)


def search_size(n: int, combinations: float, ell: float, eps: float, x: float) -> float:
    """Equation (1)."""
    e = math.sqrt(2.0) * eps
    return (2 + 2 * e / 3) * (combinations + ell * math.log(n) + math.log(math.log2(n))) * n / (e * e * x)


def final_size(n: int, combinations: float, ell: float, eps: float, bound: float) -> float:
    """Equation (3)."""
    alpha = math.sqrt(ell * math.log(n) + math.log(2.0))
    beta = math.sqrt(BEST * (combinations + ell * math.log(n) + math.log(2.0)))
    return 2.0 * n * (BEST * alpha + beta) ** 2 / (eps * eps * bound)


class IMM:
    """Two phases: a lower bound on the best spread, then one sample of the size that it allows."""

    def __init__(self, config: IMMConfig = IMMConfig()) -> None:
        self.config = config

    def choose(
        self, network: Network, starters: ArrayLike = (), *, candidates: ArrayLike | None = None, rng: int = 0
    ) -> Choice:
        """The seeds, by `starters` each for itself when they are given."""
        c = self.config
        if np.size(starters):

            def pick(sampler: ReverseSampler, friends: Nodes, u: int) -> Nodes:
                return self.selected(sampler, friends, rng=rng + 1000 * u)[0]

            return separate_lists(network, starters, c.seeds, pick, c.model, "imm", c.threads, rng)
        sampler, among = prepared(network, candidates, c.model, c.threads)
        node, sets = self.selected(sampler, among, rng=rng)
        return plain_choice(network, sampler, node, "imm", rng, (f"selected on {sets:,} sets",))

    def selected(self, sampler: ReverseSampler, candidates: Nodes, *, rng: int = 0) -> tuple[Nodes, int]:
        """The seeds, and the size of the sample that chose them."""
        c, n = self.config, max(sampler.population, 4)
        k = min(c.seeds, len(candidates))
        ell = c.ell * (1.0 + math.log(2.0) / math.log(n))
        combinations = float(log_binomial(len(candidates), k))
        e, bound = math.sqrt(2.0) * c.eps, float(k)
        searching, sample = sampler.stream(rng, 1), None
        for i in range(1, max(2, math.ceil(math.log2(n)))):
            x = n / 2.0**i
            size = math.ceil(search_size(n, combinations, ell, c.eps, x))
            sample = searching.extended(sample, size)
            found = n * greedy(sample, candidates, sampler.n, k).covered / len(sample)
            if found >= (1.0 + e) * x:
                bound = max(bound, found / (1.0 + e))
                break
        size = math.ceil(final_size(n, combinations, ell, c.eps, bound))
        final: ReverseSets = sampler.stream(rng, 2).draw(0, size)
        return greedy(final, candidates, sampler.n, k).node, size
