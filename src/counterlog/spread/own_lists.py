"""What choosers of plain seeds share: candidates, results, and lists that each starter fills without the others.

Separate lists are the usual way to run a campaign: every starter gets the best of its own friends, and friends in
several lists are invited several times. `Choice.seeds` counts them once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.core.choice import Choice, Pick, credit, share_interval
from counterlog.core.errors import SupportError, message
from counterlog.core.friend_lists import friend_lists
from counterlog.core.martingale import Certified
from counterlog.core.network import Network, Nodes
from counterlog.core.reverse_sets import ReverseSampler

VALIDATION = 65_536
Pickers = Callable[[ReverseSampler, Nodes, int], Nodes]


def prepared(
    network: Network, candidates: ArrayLike | None, model: str, threads: int
) -> tuple[ReverseSampler, Nodes]:
    """A sampler of the whole network, and the candidates as node numbers (all nodes unless named)."""
    among = network.nodes if candidates is None else np.sort(network.ids(candidates, "candidate"))
    if not len(among):
        raise SupportError(message("there is no candidate", expected="a network with nodes"))
    checked = network.threshold_weights() if model == "lt" else network
    return ReverseSampler(checked, model, threads=threads), among.astype(np.int32)


def certified_choice(
    network: Network, population: int, made: Certified, method: str, *, target: float, delta: float
) -> Choice:
    """Seeds with their certificate; each seed's gain is counted on the validation sample."""
    spread, lo, hi = share_interval(made.validated, made.sets, population)
    return Choice(
        method=method,
        n=population,
        spread=spread,
        lo=lo,
        hi=hi,
        picks=_picks(network, made.selection.node, made.second.nodes, made.second.offsets, population),
        lower=made.lower,
        upper=made.upper,
        ratio=made.lower / made.upper,
        target=target,
        delta=delta,
        guaranteed=made.reached,
        sets=made.sets,
        rounds=made.rounds,
        notes=("stopped at memory_mb before the target ratio was certified",) if made.cut else (),
    )


def plain_choice(
    network: Network, sampler: ReverseSampler, node: Nodes, method: str, rng: int, notes: Sequence[str] = ()
) -> Choice:
    """Seeds without a certificate, valued on fresh sets."""
    sample = sampler.stream(rng, 8).draw(0, VALIDATION)
    covered = sample.covered(node, sampler.n)
    spread, lo, hi = share_interval(covered, len(sample), sampler.population)
    return Choice(
        method=method,
        n=sampler.population,
        spread=spread,
        lo=lo,
        hi=hi,
        picks=_picks(network, node, sample.nodes, sample.offsets, sampler.population),
        sets=len(sample),
        notes=tuple(notes),
    )


def separate_lists(
    network: Network,
    starters: ArrayLike,
    capacity: int | Sequence[int],
    pick: Pickers,
    model: str,
    method: str,
    threads: int,
    rng: int,
) -> Choice:
    """Every starter's list by `pick(sampler, friends, number)` alone, in `method`'s name, valued on fresh sets."""
    lists = friend_lists(network, starters, capacity)
    passive = network.without(lists.starters)
    if model == "lt":
        passive = passive.threshold_weights()
    sampler = ReverseSampler(passive, model, threads=threads)
    owner, node = [], []
    for u in range(len(lists.starters)):
        mine = lists.friends[lists.indptr[u] : lists.indptr[u + 1]]
        taken = mine if len(mine) <= lists.capacity[u] else pick(sampler, mine, u)[: lists.capacity[u]]
        owner.append(np.full(len(taken), u, np.int32))
        node.append(taken)
    who, whom = np.concatenate(owner), np.concatenate(node).astype(np.int32)
    sample = sampler.stream(rng, 8).draw(0, VALIDATION)
    spread, lo, hi = share_interval(sample.covered(whom, network.n), len(sample), sampler.population)
    gains, shares = credit(network, sampler.population, lists, who, whom, sample)
    names, labels = network.labels[lists.starters].tolist(), network.labels[whom].tolist()
    return Choice(
        method=f"{method}, separate lists",
        n=sampler.population,
        spread=spread,
        lo=lo,
        hi=hi,
        picks=tuple(
            Pick(starter=names[u], node=v, gain=float(g))
            for u, v, g in zip(who.tolist(), labels, gains, strict=True)
        ),
        sets=len(sample),
        starters=shares,
    )


def _picks(
    network: Network, node: Nodes, nodes: Nodes, offsets: NDArray[np.int64], population: int
) -> tuple[Pick, ...]:
    from counterlog.core.coverage_kernels import credited

    place = np.zeros(network.n, np.int32)
    place[node[::-1]] = np.arange(len(node), 0, -1)
    added, _ = credited(nodes, offsets, place, np.zeros(network.n, np.int32), len(node), 1)
    scale = population / (len(offsets) - 1)
    return tuple(
        Pick(starter="", node=v, gain=float(g * scale))
        for v, g in zip(network.labels[node].tolist(), added, strict=True)
    )
