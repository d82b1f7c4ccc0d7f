"""Which people should start, by the network's shape alone: most links out, or PageRank against the links.

Use when    a baseline that needs no probabilities and no sampling is wanted.
Not when    people share friends: the best connected reach the same others, and the group is worth less than its sum.
Data        Network; starters (labels) if each invites its own friends
Paper       Page, Brin, Motwani, Winograd: The PageRank Citation Ranking, 1999
Equation    r = restart / n + (1 - restart) ( P^T r + dangling / n ),  P one step against an edge                    (1)
Shapes      r (n,) sums to 1
Units       degree: links | r: share
Raises      LogError: an unknown starter or candidate | SupportError: no candidate | ConvergenceError: no fixed point
            ConfigError: a parameter outside its bounds | MissingExtraError: numba is not installed
Differs     links are walked backwards, so that a high rank means reaching many, not being reached
Call        Centrality().choose(network); with `starters`, each chooses among its own friends alone
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from counterlog.core.choice import Choice
from counterlog.core.config import Config, param
from counterlog.core.errors import ConvergenceError, message
from counterlog.core.network import Network, Nodes
from counterlog.core.reverse_sets import MODELS, ReverseSampler
from counterlog.spread.own_lists import plain_choice, prepared, separate_lists


@dataclass(frozen=True, kw_only=True)
class CentralityConfig(Config):
    """Which measure."""

    seeds: int = param(50, "seeds, or friends a starter", at_least=1)
    measure: str = param("degree", "links out, or PageRank", choices=("degree", "pagerank"))
    restart: float = param(0.2, "chance that the walk starts anew", above=0, below=1)
    along: bool = param(False, "walk with the links (the paper's code) instead of against them")
    tolerance: float = param(1e-9, "L1 change that ends PageRank", above=0)
    model: str = param("ic", "model under which the choice is valued", choices=MODELS)
    threads: int = param(0, "threads that value the choice; 0 is all cores", at_least=0)


def pagerank(
    network: Network, restart: float, tolerance: float, *, along: bool = False, most: int = 10_000
) -> NDArray[np.float64]:
    """Equation (1), walking against the links or `along` them."""
    n = network.n
    links = sparse.csr_array((np.ones(network.m), network.targets, network.indptr), shape=(n, n))
    if along:
        links = links.T.tocsr()
    degree: NDArray[np.float64] = np.asarray(links.sum(axis=0)).ravel()
    step = links @ sparse.diags_array(1.0 / np.maximum(degree, 1.0))
    ends = degree == 0
    rank = np.full(n, 1.0 / n)
    for _ in range(most):
        new = restart / n + (1.0 - restart) * (step @ rank + rank[ends].sum() / n)
        change = np.abs(new - rank).sum()
        rank = new
        if change < tolerance:
            return np.asarray(rank, np.float64)
    raise ConvergenceError(
        message(f"PageRank still moves by {change:.2g}", expected=f"less than {tolerance:g}")
    )


class Centrality:
    """The k highest by degree or PageRank."""

    def __init__(self, config: CentralityConfig = CentralityConfig()) -> None:
        self.config = config

    def choose(
        self, network: Network, starters: ArrayLike = (), *, candidates: ArrayLike | None = None, rng: int = 0
    ) -> Choice:
        """The seeds, by `starters` each for itself when they are given; ties go to the smallest node."""
        c, value = self.config, self.values(network)

        def highest(among: Nodes) -> Nodes:
            return among[np.argsort(-value[among], kind="stable")[: c.seeds]]

        if np.size(starters):

            def pick(sampler: ReverseSampler, friends: Nodes, u: int) -> Nodes:
                return highest(friends)

            return separate_lists(network, starters, c.seeds, pick, c.model, c.measure, c.threads, rng)
        sampler, among = prepared(network, candidates, c.model, c.threads)
        return plain_choice(network, sampler, highest(among), c.measure, rng)

    def values(self, network: Network) -> NDArray[np.float64]:
        """(n,) the measure of every node."""
        if self.config.measure == "degree":
            return network.out_degree.astype(np.float64)
        return pagerank(network, self.config.restart, self.config.tolerance, along=self.config.along)
