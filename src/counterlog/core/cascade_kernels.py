"""Cascades forward in machine code: how many nodes a seed group activates in one run, under either model.

Each run has its own random stream. A target is looked at only when its coin came up, so that edges that fail cost no
random read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from counterlog.core.compiled import compiled
from counterlog.core.random_streams import LOW, S32, STEP, mixed, stream, unit


@compiled
def cascade_sizes(
    indptr: Any, targets: Any, chance: Any, seeds: Any, seed: np.uint64, first: int, count: int
) -> Any:
    """(count,) active nodes of independent cascades. An edge passes when 32 random bits are <= its `chance`."""
    n = len(indptr) - 1
    visited = np.zeros(n, np.uint8)
    queue = np.empty(n, np.int32)
    sizes = np.empty(count, np.int32)
    for run in range(count):
        state = stream(seed, first + run)
        used = len(seeds)
        for i in range(used):
            queue[i] = seeds[i]
            visited[seeds[i]] = 1
        at = 0
        while at < used:
            v = queue[at]
            at += 1
            j, end = indptr[v], indptr[v + 1]
            while j < end:
                state += STEP
                bits = mixed(state)
                if (bits & LOW) <= np.uint64(chance[j]):
                    u = targets[j]
                    if not visited[u]:
                        visited[u] = 1
                        queue[used] = u
                        used += 1
                j += 1
                if j < end and (bits >> S32) <= np.uint64(chance[j]):
                    u = targets[j]
                    if not visited[u]:
                        visited[u] = 1
                        queue[used] = u
                        used += 1
                j += 1
        for i in range(used):
            visited[queue[i]] = 0
        sizes[run] = used
    return sizes


@compiled
def threshold_sizes(
    indptr: Any, targets: Any, weight: Any, seeds: Any, seed: np.uint64, first: int, count: int
) -> Any:
    """(count,) active nodes under linear thresholds: a node turns active when the weights of its active sources reach
    its uniform threshold."""
    n = len(indptr) - 1
    active, threshold, sums = np.zeros(n, np.uint8), np.zeros(n), np.zeros(n)
    queue, touched, sizes = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(count, np.int32)
    for run in range(count):
        state = stream(seed, first + run)
        used, seen = len(seeds), 0
        for i in range(used):
            queue[i] = seeds[i]
            active[seeds[i]] = 1
        at = 0
        while at < used:
            v = queue[at]
            at += 1
            for j in range(indptr[v], indptr[v + 1]):
                u = targets[j]
                if active[u]:
                    continue
                if threshold[u] == 0.0:
                    state += STEP
                    threshold[u] = unit(mixed(state))
                    touched[seen] = u
                    seen += 1
                sums[u] += weight[j]
                if sums[u] >= threshold[u]:
                    active[u] = 1
                    queue[used] = u
                    used += 1
        for i in range(used):
            active[queue[i]] = 0
        for i in range(seen):
            threshold[touched[i]] = 0.0
            sums[touched[i]] = 0.0
        sizes[run] = used
    return sizes
