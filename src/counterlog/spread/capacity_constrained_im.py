"""Which friends should each starter invite, so that the cascade among everybody else is largest?

Use when    a campaign starts from given users, each may invite a few friends, and edges have probabilities.
Not when    the starters are yours to choose (opim-c), or invitations are often declined (the plan takes an invited
            friend as active).
Data        Network; starters (labels); a capacity for all or one each
Paper       Zhang, Huang, Sun, Lin, Xiao, Tang: Capacity Constrained Influence Maximization in Social Networks,
            KDD 2023: MG-Greedy, RR-Greedy, RR-OPIM, RR-OPIM+, MG-OPIM
Equation    max over S_u subset of C_u, |S_u| <= k_u   of   sigma(union of S_u)     without the starters  (1)
            sigma(S) = n_P Pr[S meets R],  R a reverse-reachable set of a random node of it                         (2)
            Lambda^u = min( 2 Lambda(S), min_t [ Lambda(S_t) + sum_u k_u largest Lambda(v | S_t) ] )                (3)
            stop at sigma_lower(S) / sigma_upper >= 1/2 - eps, else double both samples                           (4)
            theta_max = 2 n_P (sqrt(L)/2 + sqrt((sum_u ln binom(|C_u|, k_u) + L)/2))^2 / (eps^2 chi)               (5)
            with L = ln(6/delta) and chi the distinct seeds of a random feasible choice
Shapes      starters (d,) | lists C_u of |C_u| friends | picks (s,), s <= sum k_u | n_P nodes that are no starters
Units       sigma, bounds, gains: expected active nodes | ratio: none
Raises      LogError: a starter is unknown or named twice; weights into a node sum to more than 1 (lt)
            ConfigError: a capacity that is not whole and positive, a parameter outside its bounds
            SupportError: no starter, or none has a friend to invite | MissingExtraError: numba is not installed
Differs     theta_0 of the paper (released code: sqrt(chi)); theta_max is reached, not half of it; degrees of C_u do not
            count starters; (3) has both terms (released code: the second); lt as well as ic; mg-opim+ uses (3) too;
            a shared friend goes to the starter with the fewest friends left (paper: any)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from counterlog.core.choice import Choice, Pick, credit, share_interval
from counterlog.core.config import Config, param
from counterlog.core.friend_lists import FriendLists, friend_lists
from counterlog.core.martingale import Certified, Selection, certify, log_binomial
from counterlog.core.network import Network
from counterlog.core.reverse_sets import MODELS, ReverseSampler, ReverseSets

METHODS = ("rr-opim+", "rr-opim", "mg-opim+", "mg-opim")


@dataclass(frozen=True, kw_only=True)
class CapacityConstrainedIMConfig(Config):
    """Which greedy rule and certificate, and how close to the best."""

    capacity: int = param(10, "friends that a starter may invite", at_least=1)
    method: str = param(
        "rr-opim+",
        "starters in turn (rr) or best pair first (mg); + has the tight bound (3)",
        choices=METHODS,
    )
    model: str = param("ic", "independent cascades or linear thresholds", choices=MODELS)
    eps: float = param(0.1, "the choice is worth 1/2 - eps of the best", above=0, below=0.5)
    delta: float | None = param(None, "chance that a bound fails; none: 1 / n_P", above=0, below=1)
    order: str = param("given", "whose turn is first (rr)", choices=("given", "random"))
    assign: str = param("fewest", "who invites a shared friend (mg)", choices=("fewest", "random"))
    theta0: str = param("paper", "first sample: over chi, or over its root (code)", choices=("paper", "code"))
    normalise: bool = param(False, "divide weights that sum to more than 1 by their sum (lt)")
    value_sets: int = param(65_536, "fresh sets that value the plan; 0: those that validated it", at_least=0)
    threads: int = param(0, "threads that draw sets; 0 is all cores", at_least=0)
    memory_mb: float = param(4096.0, "sets are doubled no further than this", unit="MB", above=0)


def sample_sizes(
    lists: FriendLists, population: int, chi: int, eps: float, delta: float, theta0: str
) -> tuple[float, float]:
    """Equation (5): (theta_0, theta_max)."""
    L = math.log(6.0 / delta)
    assignments = float(log_binomial(lists.sizes, lists.capacity).sum())
    core = 2.0 * (0.5 * math.sqrt(L) + math.sqrt(0.5 * (assignments + L))) ** 2
    return core / (math.sqrt(chi) if theta0 == "code" else chi), core * population / (eps * eps * chi)


def distinct_seeds(lists: FriendLists, rng: int) -> int:
    """chi: the seeds of one random feasible choice, no more than the best spread."""
    from counterlog.core.coverage_kernels import assigned

    order = np.random.default_rng([rng, 6]).permutation(lists.candidates)
    return int(assigned(order, lists.owner_ptr, lists.owners, lists.capacity))


def round_robin(sample: ReverseSets, lists: FriendLists, n: int, *, tight: bool = True) -> Selection:
    """RR-Greedy on coverage, with the bound of (3) or 2 Lambda(S) alone."""
    from counterlog.core.coverage_kernels import in_turns

    by, node, gained, upper = in_turns(
        sample.nodes, sample.offsets, n, lists.indptr, lists.friends, lists.capacity, tight
    )
    return Selection(owner=by, node=node, gained=gained, bound=min(int(upper), 2 * int(gained.sum())))


def globally_best(
    sample: ReverseSets,
    lists: FriendLists,
    n: int,
    *,
    tight: bool = True,
    assign: str = "fewest",
    rng: int = 0,
) -> Selection:
    """MG-Greedy on coverage, with the bound of (3) or 2 Lambda(S) alone."""
    from counterlog.core.coverage_kernels import by_gain

    most = int(np.minimum(lists.capacity, lists.sizes).sum())
    draw = np.random.default_rng([rng, 7]).random(most + 1 if assign == "random" else 0)
    by, node, gained, upper = by_gain(
        sample.nodes,
        sample.offsets,
        n,
        lists.indptr,
        lists.friends,
        lists.capacity,
        lists.owner_ptr,
        lists.owners,
        draw,
        tight,
    )
    return Selection(owner=by, node=node, gained=gained, bound=min(int(upper), 2 * int(gained.sum())))


def largest_curvature(sample: ReverseSets, n: int) -> float:
    """gamma_max = 1 - min_v [sigma(C) - sigma(C without v)] / sigma(v), from sets cut to the candidates; RR-Greedy is
    worth 1 / (1 + gamma_max) of the best."""
    from counterlog.core.coverage_kernels import alone_and_all

    alone, every = alone_and_all(sample.nodes, sample.offsets, n)
    return float(1.0 - (alone[every > 0] / every[every > 0]).min(initial=1.0))


class CapacityConstrainedIM:
    """Chooses whom each starter invites, with a certificate."""

    def __init__(self, config: CapacityConstrainedIMConfig = CapacityConstrainedIMConfig()) -> None:
        self.config = config

    def choose(
        self,
        network: Network,
        starters: ArrayLike,
        *,
        capacity: int | Sequence[int] | None = None,
        rng: int = 0,
        progress: Callable[[str, float], None] | None = None,
    ) -> Choice:
        """The plan. `capacity` overrides the configuration's, with one number or one a starter."""
        lists = friend_lists(
            network,
            starters,
            self.config.capacity if capacity is None else capacity,
            order=self.config.order,
            rng=rng,
        )
        made, sampler = self.certified(network, lists, rng=rng, progress=progress)
        fresh = self.config.value_sets
        valuing = sampler.stream(rng, 8).draw(0, fresh) if fresh else made.second
        return self._choice(network, lists, sampler.population, made, valuing)

    def certified(
        self,
        network: Network,
        lists: FriendLists,
        *,
        rng: int = 0,
        progress: Callable[[str, float], None] | None = None,
    ) -> tuple[Certified, ReverseSampler]:
        """Algorithm RR-OPIM+ (or its kin): the selection, its bounds and the samples behind them."""
        c, n = self.config, network.n
        passive = network.without(lists.starters)
        if c.model == "lt":
            passive = passive.threshold_weights(normalise=c.normalise)
        keep = np.diff(lists.owner_ptr) > 0
        sampler = ReverseSampler(passive, c.model, keep=keep, rng=rng, threads=c.threads)
        delta = self._delta(sampler.population)
        chi = distinct_seeds(lists, rng)
        least, most = sample_sizes(lists, sampler.population, chi, c.eps, delta, c.theta0)
        tight = c.method.endswith("+")

        def select(sample: ReverseSets) -> Selection:
            if c.method.startswith("rr"):
                return round_robin(sample, lists, n, tight=tight)
            return globally_best(sample, lists, n, tight=tight, assign=c.assign, rng=rng)

        made = certify(
            sampler,
            select,
            rng=rng,
            first_sets=least,
            most_sets=most,
            delta=delta,
            target=0.5 - c.eps,
            memory=c.memory_mb * 2**20,
            progress=progress,
        )
        return made, sampler

    def _delta(self, population: int) -> float:
        return 1.0 / max(population, 2) if self.config.delta is None else self.config.delta

    def _choice(
        self, network: Network, lists: FriendLists, population: int, made: Certified, valuing: ReverseSets
    ) -> Choice:
        chosen = made.selection
        spread, lo, hi = share_interval(valuing.covered(chosen.node, network.n), len(valuing), population)
        gains, shares = credit(network, population, lists, chosen.owner, chosen.node, valuing)
        names = network.labels[lists.starters].tolist()
        notes: tuple[str, ...] = ()
        if made.cut:
            notes = (f"stopped at memory_mb={self.config.memory_mb:g} before the target ratio was certified",)
        return Choice(
            method=self.config.method,
            n=population,
            spread=spread,
            lo=lo,
            hi=hi,
            picks=tuple(
                Pick(starter=names[u], node=v, gain=float(g))
                for u, v, g in zip(
                    chosen.owner.tolist(), network.labels[chosen.node].tolist(), gains, strict=True
                )
            ),
            lower=made.lower,
            upper=made.upper,
            ratio=made.lower / made.upper,
            target=0.5 - self.config.eps,
            delta=self._delta(population),
            guaranteed=made.reached,
            sets=made.sets,
            rounds=made.rounds,
            starters=shares,
            notes=notes,
        )
