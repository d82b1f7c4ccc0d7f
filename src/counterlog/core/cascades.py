"""The expected spread of a seed group: by cascades run forward, by reverse-reachable sets to a relative error, or exact
on tiny networks."""

from __future__ import annotations

import itertools
import math
import os
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.network import Network, Nodes
from counterlog.core.results import Estimate
from counterlog.core.reverse_sets import BLOCK, MODELS, ReverseSampler, hits_needed

UNIT = "expected active nodes"
MOST_EDGES = 22
FORWARD_BLOCK = 256


class Cascades:
    """Runs cascades of one network forward, on all cores; run r depends on the seed and r alone."""

    def __init__(self, network: Network, model: str = "ic", *, threads: int = 0) -> None:
        self.model, self.n, self.threads = model, network.n, threads or os.cpu_count() or 1
        p = network.edge_probability
        possible = p > 0.0
        before = np.concatenate([[0], np.cumsum(possible)])
        self._indptr, self._targets = before[network.indptr], network.targets[possible]
        p = p[possible]
        self._chance = (
            p
            if model == "lt"
            else np.clip(np.rint(p.astype(np.float64) * 2.0**32) - 1, 0, 2**32 - 1).astype(np.uint32)
        )

    def sizes(self, seeds: NDArray[Any], runs: int, *, rng: int = 0, first: int = 0) -> NDArray[np.int32]:
        """(runs,) active nodes, seeds included, of runs first, ..., first + runs - 1."""
        from counterlog.core.cascade_kernels import cascade_sizes, threshold_sizes

        seed = np.random.SeedSequence([rng, 3]).generate_state(1, np.uint64)[0]
        kernel = threshold_sizes if self.model == "lt" else cascade_sizes
        group = np.unique(np.asarray(seeds, np.int32))

        def part(begin: int, count: int) -> NDArray[np.int32]:
            out: NDArray[np.int32] = kernel(
                self._indptr, self._targets, self._chance, group, seed, begin, count
            )
            return out

        shares = min(self.threads, max(1, runs // FORWARD_BLOCK))
        if shares == 1:
            return part(first, runs)
        from joblib import Parallel, delayed

        edges = [first + (runs * i) // shares for i in range(shares + 1)]
        spans = [(a, b - a) for a, b in itertools.pairwise(edges)]
        return np.concatenate(Parallel(shares, backend="threading")(delayed(part)(*s) for s in spans))


def spread(
    network: Network,
    seeds: ArrayLike,
    *,
    starters: ArrayLike = (),
    model: str = "ic",
    method: str = "rr",
    error: float = 0.01,
    delta: float = 1e-3,
    runs: int = 10_000,
    level: float = 0.95,
    rng: int = 0,
    threads: int = 0,
) -> Estimate:
    """Expected active nodes when the seeds (labels) start, on the network without the `starters`.

    "rr": within a relative `error` with probability 1 - `delta`, by the stopping rule of Dagum, Karp, Luby and Ross.
    "mc": `runs` cascades and a normal interval of `level`. Raises `LogError` for unknown seeds or a seed that is a
    starter, `ConfigError` for numbers outside their bounds.
    """
    if model not in MODELS or method not in ("rr", "mc"):
        raise ConfigError(message(f"model={model!r}, method={method!r}", expected="ic or lt; rr or mc"))
    if not (0 < error < 1 and 0 < delta < 1 and 0 < level < 1 and runs >= 2):
        msg = message(
            f"error={error}, delta={delta}, level={level}, runs={runs}", expected="each in (0, 1); runs >= 2"
        )
        raise ConfigError(msg)
    group = network.ids(np.unique(np.asarray(seeds)), "seed")
    if not len(group):
        raise SupportError(message("no seed is named", hint="name at least one"))
    gone = network.ids(starters, "starter") if np.size(starters) else np.empty(0, np.int32)
    if (both := np.intersect1d(group, gone)).size:
        msg = message(f"seed {network.labels[both[0]]!s} is a starter", expected="seeds among the others")
        raise LogError(msg)
    left = network.without(gone) if len(gone) else network
    if model == "lt":
        left = left.threshold_weights()
    if method == "rr":
        return _stopping_rule(
            ReverseSampler(left, model, rng=rng, stream=4, threads=threads), group, error, delta
        )
    sizes = Cascades(left, model, threads=threads).sizes(group, runs, rng=rng)
    se = float(sizes.std(ddof=1) / math.sqrt(runs))
    z = NormalDist().inv_cdf(0.5 + level / 2)
    value = float(sizes.mean())
    return Estimate(
        value=value,
        lo=value - z * se,
        hi=value + z * se,
        se=se,
        unit=UNIT,
        n=runs,
        level=level,
        interval="normal",
    )


def _stopping_rule(sampler: ReverseSampler, group: Nodes, error: float, delta: float) -> Estimate:
    from counterlog.core.rr_kernels import hits

    mask = np.zeros(sampler.n, np.uint8)
    mask[group] = 1
    needed, met, drawn, step = hits_needed(error, delta), 0, 0, 4 * BLOCK
    while met < needed:
        sample = sampler.draw(drawn, step)
        hit = hits(sample.nodes, sample.offsets, mask)
        here = int(np.count_nonzero(hit))
        if met + here >= needed:
            drawn += int(np.flatnonzero(hit)[needed - met - 1]) + 1
            break
        met, drawn = met + here, drawn + step
        step = min(64 * BLOCK, max(BLOCK, math.ceil((needed - met) * drawn / max(met, 1)) + BLOCK))
    value = needed * sampler.population / drawn
    return Estimate(
        value=value,
        lo=value / (1 + error),
        hi=min(value / (1 - error), float(sampler.population)),
        se=value / math.sqrt(needed),
        unit=UNIT,
        n=drawn,
        level=1 - delta,
        interval="relative error",
    )


def exact_spread(network: Network, seeds: Any) -> float:
    """Expected active nodes under independent cascades by enumerating live edges; at most 22 uncertain edges."""
    p = network.edge_probability.astype(np.float64)
    source = np.repeat(np.arange(network.n), network.out_degree)
    unsure = np.flatnonzero((p > 0) & (p < 1))
    if len(unsure) > MOST_EDGES:
        raise ConfigError(message(f"{len(unsure)} uncertain edges", expected=f"at most {MOST_EDGES}"))
    worlds = (np.arange(2 ** len(unsure))[:, None] >> np.arange(len(unsure))) & 1
    live = np.repeat((p == 1.0)[None], len(worlds), axis=0)
    live[:, unsure] = worlds
    chance = np.prod(np.where(worlds, p[unsure], 1 - p[unsure]), axis=1)
    active = np.zeros((len(worlds), network.n), bool)
    active[:, np.asarray(seeds, dtype=int)] = True
    for _ in range(network.n):
        before = active.sum()
        for j in range(network.m):
            active[:, network.targets[j]] |= active[:, source[j]] & live[:, j]
        if active.sum() == before:
            break
    return float(chance @ active.sum(axis=1))
