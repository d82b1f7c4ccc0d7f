"""Which k people should start, with a certificate: OPIM-C.

Use when    the starters are yours to choose among all nodes (or among `candidates`) and a bound on the best is wanted.
Not when    the starters are given and each invites a few friends (capacity-constrained-im).
Data        Network
Paper       Tang, Tang, Xiao, Yuan: Online Processing Algorithms for Influence Maximization, SIGMOD 2018,
            doi:10.1145/3183713.3183749
Equation    Lambda^u = min( Lambda(S) / (1 - 1/e), min_i [ Lambda(S_i) + sum of the k largest Lambda(v | S_i) ] )  (1)
            stop at sigma_lower(S) / sigma_upper >= 1 - 1/e - eps, else double both samples                      (2)
            theta_max = 2 n (b sqrt(L) + sqrt(b (ln binom(N, k) + L)))^2 / (eps^2 k),  b = 1 - 1/e, L = ln(6/delta) (3)
Shapes      N candidates, n nodes that count
Units       sigma: expected active nodes
Raises      LogError: an unknown starter or candidate | SupportError: no candidate
            ConfigError: a parameter outside its bounds | MissingExtraError: numba is not installed
Differs     candidates may be fewer than the nodes; theta_max is reached; lt as well as ic
Call        OPIMC().choose(network); with `starters`, each chooses among its own friends alone and the lists are united
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from counterlog.core.choice import Choice
from counterlog.core.config import Config, param
from counterlog.core.martingale import Certified, Selection, certify, log_binomial
from counterlog.core.network import Network, Nodes
from counterlog.core.reverse_sets import MODELS, ReverseSampler, ReverseSets
from counterlog.spread.own_lists import certified_choice, prepared, separate_lists

BEST = 1.0 - 1.0 / math.e


@dataclass(frozen=True, kw_only=True)
class OPIMCConfig(Config):
    """How many seeds, and how close to the best."""

    seeds: int = param(50, "seeds, or friends a starter", at_least=1)
    model: str = param("ic", "independent cascades or linear thresholds", choices=MODELS)
    eps: float = param(0.1, "the choice is worth 1 - 1/e - eps of the best", above=0, below=BEST)
    delta: float | None = param(None, "chance that a bound fails; none: 1 / n", above=0, below=1)
    threads: int = param(0, "threads that draw sets; 0 is all cores", at_least=0)
    memory_mb: float = param(4096.0, "sets are doubled no further than this", unit="MB", above=0)


def sample_sizes(population: int, candidates: int, k: int, eps: float, delta: float) -> tuple[float, float]:
    """Equation (3): (theta_0, theta_max)."""
    L = math.log(6.0 / delta)
    core = 2.0 * (BEST * math.sqrt(L) + math.sqrt(BEST * (float(log_binomial(candidates, k)) + L))) ** 2 / k
    return core, core * population / (eps * eps)


def greedy(sample: ReverseSets, candidates: Nodes, n: int, k: int) -> Selection:
    """k nodes of largest marginal coverage, ties to the smallest, with the bound of (1)."""
    from counterlog.core.coverage_kernels import singly

    node, gained, upper = singly(sample.nodes, sample.offsets, n, candidates, k)
    bound = min(int(upper), math.floor(int(gained.sum()) / BEST))
    return Selection(owner=np.zeros(len(node), np.int32), node=node, gained=gained, bound=bound)


class OPIMC:
    """OPIM-C with the tight bound (its OPIM+ form)."""

    def __init__(self, config: OPIMCConfig = OPIMCConfig()) -> None:
        self.config = config

    def choose(
        self,
        network: Network,
        starters: ArrayLike = (),
        *,
        candidates: ArrayLike | None = None,
        rng: int = 0,
        progress: Callable[[str, float], None] | None = None,
    ) -> Choice:
        """The seeds, by `starters` each for itself when they are given."""
        c = self.config
        if np.size(starters):

            def pick(sampler: ReverseSampler, friends: Nodes, u: int) -> Nodes:
                return self.certified(sampler, friends, rng=rng + 1000 * u).selection.node

            return separate_lists(network, starters, c.seeds, pick, c.model, "opim-c", c.threads, rng)
        sampler, among = prepared(network, candidates, c.model, c.threads)
        made = self.certified(sampler, among, rng=rng, progress=progress)
        return certified_choice(
            network, sampler.population, made, "opim-c", target=BEST - c.eps, delta=self._delta(sampler)
        )

    def certified(
        self,
        sampler: ReverseSampler,
        candidates: Nodes,
        *,
        rng: int = 0,
        progress: Callable[[str, float], None] | None = None,
    ) -> Certified:
        """Selection, bounds and samples."""
        c, delta = self.config, self._delta(sampler)
        k = min(c.seeds, len(candidates))
        least, most = sample_sizes(sampler.population, len(candidates), k, c.eps, delta)
        return certify(
            sampler,
            lambda sample: greedy(sample, candidates, sampler.n, k),
            rng=rng,
            first_sets=least,
            most_sets=most,
            delta=delta,
            target=BEST - c.eps,
            memory=c.memory_mb * 2**20,
            progress=progress,
        )

    def _delta(self, sampler: ReverseSampler) -> float:
        return 1.0 / max(sampler.population, 2) if self.config.delta is None else self.config.delta
