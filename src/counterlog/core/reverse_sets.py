"""Reverse-reachable sets of a network: drawn on all cores, the same on any number of them, kept flat.

A set is who would have activated one random node. Its random stream depends on the seed and its number alone. The share
of sets that a seed group meets, times the nodes that count, is an unbiased estimate of its expected spread.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.network import Index, Network, Nodes

BLOCK = 4096
MODELS = ("ic", "lt")
NO_FILTER = np.empty(0, np.uint8)


@dataclass(frozen=True, eq=False)
class ReverseSets:
    """Set s is `nodes[offsets[s]:offsets[s+1]]`, cut to the nodes that were asked for."""

    nodes: Nodes
    offsets: Index

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def joined(self, later: ReverseSets) -> ReverseSets:
        """These sets and then those."""
        return _joined([(self.nodes, self.offsets), (later.nodes, later.offsets)])

    def covered(self, chosen: NDArray[Any], n: int) -> int:
        """How many sets hold a chosen node."""
        from counterlog.core.rr_kernels import hits

        mask = np.zeros(n, np.uint8)
        mask[chosen] = 1
        return int(np.count_nonzero(hits(self.nodes, self.offsets, mask)))


class ReverseSampler:
    """Draws sets of one network under one model. `keep` (n,) cuts every set to some nodes, such as candidates."""

    def __init__(
        self,
        network: Network,
        model: str = "ic",
        *,
        keep: NDArray[np.bool_] | None = None,
        rng: int = 0,
        stream: int = 0,
        threads: int = 0,
    ) -> None:
        """`stream` tells independent samples of one `rng` apart; `threads` 0 is all cores."""
        self.n, self.population = network.n, len(network.nodes)
        self.threads = threads or os.cpu_count() or 1
        self._seed = np.random.SeedSequence([rng, stream]).generate_state(1, np.uint64)[0]
        self._keep = NO_FILTER if keep is None else keep.astype(np.uint8)
        self._roots = network.nodes
        self._kernel, self._tables = _tables(network, model)

    def stream(self, rng: int, stream: int) -> ReverseSampler:
        """The same tables with an independent stream of randomness."""
        other: ReverseSampler = object.__new__(ReverseSampler)
        other.__dict__.update(self.__dict__)
        other._seed = np.random.SeedSequence([rng, stream]).generate_state(1, np.uint64)[0]
        return other

    def draw(self, first: int, count: int) -> ReverseSets:
        """Sets number first, ..., first + count - 1."""
        shares = min(self.threads, max(1, count // BLOCK))
        edges = [first + (count * i) // shares for i in range(shares + 1)]
        spans = [(a, b - a) for a, b in pairwise(edges)]
        if shares == 1:
            return _joined([self._span(first, count)])
        from joblib import Parallel, delayed

        return _joined(Parallel(shares, backend="threading")(delayed(self._span)(*s) for s in spans))

    def _span(self, first: int, count: int) -> tuple[Nodes, Index]:
        made: tuple[Nodes, Index] = self._kernel(
            *self._tables, self._roots, self._keep, self._seed, first, count
        )
        return made

    def extended(self, sample: ReverseSets | None, size: int) -> ReverseSets:
        """`sample`, which holds the first sets of this stream, continued to `size` sets."""
        if sample is None:
            return self.draw(0, size)
        return sample.joined(self.draw(len(sample), size - len(sample))) if size > len(sample) else sample


def _tables(network: Network, model: str) -> tuple[Any, tuple[Any, ...]]:
    """The kernel for this network and model, and its arrays: edges by target, probabilities as it wants them."""
    from counterlog.core import rr_kernels

    into = network.incoming
    if network.node_p is not None:
        if model == "lt":
            tables = (into.indptr, into.sources, network.node_p, np.empty(0))
            return rr_kernels.threshold_sets, tables
        return rr_kernels.cascade_sets, (*_node_table(into.indptr, network.node_p), into.sources)
    p = network.edge_probability[into.edge]
    if model == "lt":
        running = np.concatenate([[0.0], np.cumsum(p, dtype=np.float64)])
        cumulative = running[1:] - np.repeat(running[into.indptr[:-1]], np.diff(into.indptr))
        return rr_kernels.threshold_sets, (into.indptr, into.sources, np.empty(0, np.float32), cumulative)
    target = np.repeat(np.arange(network.n), np.diff(into.indptr))
    order = np.lexsort((-p, target))
    p = p[order]
    return rr_kernels.cascade_sets_by_edge, (into.indptr, into.sources[order], p, _leap(p))


def _node_table(indptr: Index, p: NDArray[np.float32]) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """A row of 16 bytes a node, one cache line: see `cascade_sets`."""
    table = np.zeros((len(p), 4), np.uint32)
    table[:, 0] = indptr[:-1]
    table[:, 1] = np.where(p > 0.0, np.diff(indptr), 0)
    table[:, 2] = np.where(p < 1.0, np.clip(np.rint(p.astype(np.float64) * 2.0**32), 1, 2**32 - 1), 0).astype(
        np.uint64
    )
    leap = table.view(np.float32)
    leap[:, 3] = _leap(p)
    return table, leap


def _leap(p: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / ln(1 - p), the scale of geometric leaps; 0 where it is not used (p = 0 or 1)."""
    inside = (p > 0.0) & (p < 1.0)
    return np.where(inside, 1.0 / np.log1p(-np.where(inside, p, 0.5), dtype=np.float64), 0.0).astype(
        np.float32
    )


def _joined(parts: list[tuple[Nodes, Index]]) -> ReverseSets:
    if len(parts) == 1:
        return ReverseSets(*parts[0])
    offsets, end = [np.zeros(1, np.int64)], 0
    for _, own in parts:
        offsets.append(own[1:] + end)
        end += int(own[-1])
    return ReverseSets(np.concatenate([p[0] for p in parts]), np.concatenate(offsets))


def hits_needed(error: float, delta: float) -> int:
    """Sets a seed group must meet before the stopping rule ends (Dagum, Karp, Luby and Ross 2000)."""
    c = 2.0 * (math.e - 2.0)
    return math.ceil(1.0 + 2.0 * c * (1.0 + error) * math.log(2.0 / delta) / error**2)
