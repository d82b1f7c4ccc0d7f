"""Which people should start, by running cascades: greedy with a lazy queue (CELF), for one group or for many starters.

Use when    the network is small, or a reference is wanted that rests on nothing but forward simulation.
Not when    the network has more than some thousand nodes: every gain costs `runs` cascades (opim-c,
            capacity-constrained-im).
Data        Network; starters (labels) if each invites its own friends
Paper       Leskovec et al.: Cost-effective Outbreak Detection in Networks, KDD 2007 | MG-Greedy, RR-Greedy: Zhang et
            al., KDD 2023
Equation    take v of largest  sigma(S + v) - sigma(S);  gains only fall, so an old gain is an upper bound           (1)
            plain and mg: the best of all that still fit | rr: each starter in turn takes its best friend            (2)
Shapes      S the seeds so far
Units       sigma, gains: expected active nodes
Raises      LogError: an unknown starter or candidate | SupportError: no starter has a friend; no candidate
            ConfigError: a parameter outside its bounds | MissingExtraError: numba is not installed
Differs     all sets are simulated with the same random streams; 2,000 runs (paper: 10,000)
Call        CELF().choose(network); with `starters`, `rule` says how their lists are filled
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from counterlog.core.cascades import Cascades
from counterlog.core.choice import Choice, Pick, credit, share_interval
from counterlog.core.config import Config, param
from counterlog.core.friend_lists import FriendLists, friend_lists
from counterlog.core.network import Network
from counterlog.core.reverse_sets import MODELS, ReverseSampler
from counterlog.spread.own_lists import VALIDATION, plain_choice, prepared

Value = Callable[[list[int]], float]


@dataclass(frozen=True, kw_only=True)
class CELFConfig(Config):
    """How many seeds, and how many cascades stand behind a gain."""

    seeds: int = param(50, "seeds, or friends a starter", at_least=1)
    rule: str = param("rr", "starters in turn, or the best pair first", choices=("rr", "mg"))
    model: str = param("ic", "independent cascades or linear thresholds", choices=MODELS)
    runs: int = param(2_000, "cascades behind every value", at_least=2)
    threads: int = param(0, "threads that run cascades; 0 is all cores", at_least=0)


class LazyGains:
    """Gains of nodes to the seeds so far, renewed only when an old one could be the largest."""

    def __init__(self, value: Value) -> None:
        self.value, self.seeds, self.total = value, list[int](), 0.0
        self._gain: dict[int, float] = {}
        self._when: dict[int, int] = {}

    def best(self, queue: list[tuple[float, int]]) -> int:
        """The node of largest gain in a heap of (-gain, node), which is popped; -1 when all are seeds already."""
        taken = set(self.seeds)
        while queue:
            old, v = heapq.heappop(queue)
            if v in taken:
                continue
            if self._when.get(v) == len(self.seeds):
                if -old <= self._gain[v]:
                    return v
            else:
                self._gain[v] = self.value([*self.seeds, v]) - self.total
                self._when[v] = len(self.seeds)
            heapq.heappush(queue, (-self._gain[v], v))
        return -1

    def take(self, v: int) -> None:
        """Make v a seed."""
        self.seeds.append(v)
        self.total += self._gain[v]


def fresh_queue(nodes: Sequence[int]) -> list[tuple[float, int]]:
    """A heap in which nothing is known yet."""
    return [(-np.inf, v) for v in sorted(nodes)]


def in_turns(lists: FriendLists, value: Value) -> list[tuple[int, int]]:
    """RR-Greedy: (list, node) in order."""
    gains, out = LazyGains(value), []
    queues = [fresh_queue(own.tolist()) for own in np.split(lists.friends, lists.indptr[1:-1])]
    for turn in range(int(lists.capacity.max())):
        for u, queue in enumerate(queues):
            if turn < lists.capacity[u] and (v := gains.best(queue)) >= 0:
                gains.take(v)
                out.append((u, v))
    return out


def best_first(lists: FriendLists, value: Value) -> list[tuple[int, int]]:
    """MG-Greedy: (list, node) in order; a shared friend goes to the list with room that has the fewest friends left."""
    gains, out = LazyGains(value), []
    queue, left, remaining = fresh_queue(lists.candidates.tolist()), lists.capacity.copy(), lists.sizes.copy()
    while (v := gains.best(queue)) >= 0:
        owners = lists.owners[lists.owner_ptr[v] : lists.owner_ptr[v + 1]]
        remaining[owners] -= 1
        able = owners[left[owners] > 0]
        if len(able):
            u = int(able[np.argmin(remaining[able])])
            left[u] -= 1
            gains.take(v)
            out.append((u, v))
        if not left.any():
            break
    return out


class CELF:
    """Greedy on simulated spread."""

    def __init__(self, config: CELFConfig = CELFConfig()) -> None:
        self.config = config

    def choose(
        self,
        network: Network,
        starters: ArrayLike = (),
        *,
        candidates: ArrayLike | None = None,
        capacity: int | Sequence[int] | None = None,
        rng: int = 0,
    ) -> Choice:
        """The seeds; with `starters`, whom each invites (`capacity` overrides `seeds`)."""
        c = self.config
        if np.size(starters):
            lists = friend_lists(network, starters, c.seeds if capacity is None else capacity)
            return self._plan(network, lists, rng)
        sampler, among = prepared(network, candidates, c.model, c.threads)
        gains, queue = LazyGains(self._value(network, rng)), fresh_queue(among.tolist())
        for _ in range(min(c.seeds, len(among))):
            gains.take(gains.best(queue))
        return plain_choice(network, sampler, np.array(gains.seeds, np.int32), "celf", rng)

    def _plan(self, network: Network, lists: FriendLists, rng: int) -> Choice:
        c = self.config
        passive = network.without(lists.starters)
        if c.model == "lt":
            passive = passive.threshold_weights()
        value = self._value(passive, rng)
        pairs = in_turns(lists, value) if c.rule == "rr" else best_first(lists, value)
        owner, node = np.array(pairs, np.int32).T
        sampler = ReverseSampler(passive, c.model, threads=c.threads)
        sample = sampler.stream(rng, 8).draw(0, VALIDATION)
        spread, lo, hi = share_interval(sample.covered(node, network.n), len(sample), sampler.population)
        gains, shares = credit(network, sampler.population, lists, owner, node, sample)
        names, labels = network.labels[lists.starters].tolist(), network.labels[node].tolist()
        return Choice(
            method=f"{c.rule}-greedy by cascades",
            n=sampler.population,
            spread=spread,
            lo=lo,
            hi=hi,
            picks=tuple(
                Pick(starter=names[u], node=v, gain=float(g))
                for u, v, g in zip(owner.tolist(), labels, gains, strict=True)
            ),
            sets=len(sample),
            starters=shares,
        )

    def _value(self, network: Network, rng: int) -> Value:
        runs = Cascades(network, self.config.model, threads=self.config.threads)
        return lambda seeds: float(runs.sizes(np.array(seeds), self.config.runs, rng=rng).mean())
