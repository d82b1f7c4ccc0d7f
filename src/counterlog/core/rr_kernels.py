"""Reverse-reachable sets in machine code: who could have activated a random node, walking edges backwards.

One loop a case: independent cascades with one probability a node or one an edge, linear thresholds likewise. Each
set has its own random stream. The queue is the output; marks are bytes that are cleared by walking the set. Equal
probabilities are drawn edge by edge up to `COINS` edges and by geometric leaps above, so that a large in-degree costs
its expected hits. Unequal ones stand in falling order, so that the probability at hand bounds all that follow: leap by
it, accept with the ratio.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from counterlog.core.compiled import compiled
from counterlog.core.random_streams import LOW, S32, STEP, below, mixed, stream, unit

COINS = 24


@compiled
def grown(nodes: Any, used: Any, need: Any) -> Any:
    """The arena with room for `need` more."""
    larger = np.empty(max(2 * len(nodes), used + need), np.int32)
    larger[:used] = nodes[:used]
    return larger


@compiled
def finish(nodes: Any, begin: int, used: int, visited: Any, keep: Any) -> int:
    """Clear the marks of a set and drop its nodes that are not kept; returns the arena's new end."""
    out = begin
    if len(keep):
        for i in range(begin, used):
            v = nodes[i]
            visited[v] = 0
            if keep[v]:
                nodes[out] = v
                out += 1
        return out
    for i in range(begin, used):
        visited[nodes[i]] = 0
    return used


@compiled
def cascade_sets(
    info: Any, leap: Any, sources: Any, roots: Any, keep: Any, seed: np.uint64, first: int, count: int
) -> Any:
    """Sets first..first+count under independent cascades, one probability a node.

    `info[v]` is (start, in-degree, probability * 2^32, bits of the float32 1 / ln(1 - p)); `leap` is the same memory
    read as float32. A probability of 1 has threshold 0 and takes every edge.
    """
    offsets = np.empty(count + 1, np.int64)
    offsets[0] = 0
    nodes = np.empty(max(1024, 4 * count), np.int32)
    visited = np.zeros(len(info), np.uint8)
    used = 0
    for s in range(count):
        state = stream(seed, first + s)
        root = roots[below(mixed(state), len(roots))]
        begin = used
        if used == len(nodes):
            nodes = grown(nodes, used, 1)
        nodes[used] = root
        visited[root] = 1
        used += 1
        at = begin
        while at < used:
            v = nodes[at]
            at += 1
            start = np.int64(info[v, 0])
            d = np.int64(info[v, 1])
            chance = np.uint64(info[v, 2])
            if used + d > len(nodes):
                nodes = grown(nodes, used, d)
            if d > 0 and chance == np.uint64(0):
                for j in range(start, start + d):
                    u = sources[j]
                    if not visited[u]:
                        visited[u] = 1
                        nodes[used] = u
                        used += 1
            elif d <= COINS:
                place = start
                end = start + d
                while place < end:
                    state += STEP
                    bits = mixed(state)
                    if (bits & LOW) < chance:
                        u = sources[place]
                        if not visited[u]:
                            visited[u] = 1
                            nodes[used] = u
                            used += 1
                    place += 1
                    if place < end and (bits >> S32) < chance:
                        u = sources[place]
                        if not visited[u]:
                            visited[u] = 1
                            nodes[used] = u
                            used += 1
                    place += 1
            else:
                scale = float(leap[v, 3])
                state += STEP
                jump = math.log(unit(mixed(state))) * scale
                while jump < d:
                    leapt: Any = np.int64(jump)
                    u = sources[start + leapt]
                    if not visited[u]:
                        visited[u] = 1
                        nodes[used] = u
                        used += 1
                    state += STEP
                    jump = leapt + 1 + math.floor(math.log(unit(mixed(state))) * scale)
        used = finish(nodes, begin, used, visited, keep)
        offsets[s + 1] = used
    return nodes[:used].copy(), offsets


@compiled
def cascade_sets_by_edge(
    indptr: Any,
    sources: Any,
    p: Any,
    leap: Any,
    roots: Any,
    keep: Any,
    seed: np.uint64,
    first: int,
    count: int,
) -> Any:
    """The same with one probability an edge: `p` falls along each row, `leap` is 1 / ln(1 - p)."""
    offsets = np.empty(count + 1, np.int64)
    offsets[0] = 0
    nodes = np.empty(max(1024, 4 * count), np.int32)
    visited = np.zeros(len(indptr) - 1, np.uint8)
    used = 0
    for s in range(count):
        state = stream(seed, first + s)
        root = roots[below(mixed(state), len(roots))]
        begin = used
        if used == len(nodes):
            nodes = grown(nodes, used, 1)
        nodes[used] = root
        visited[root] = 1
        used += 1
        at = begin
        while at < used:
            v = nodes[at]
            at += 1
            j, end = indptr[v], indptr[v + 1]
            if used + end - j > len(nodes):
                nodes = grown(nodes, used, end - j)
            if end - j <= COINS:
                for i in range(j, end):
                    state += STEP
                    if unit(mixed(state)) <= p[i]:
                        u = sources[i]
                        if not visited[u]:
                            visited[u] = 1
                            nodes[used] = u
                            used += 1
                continue
            while j < end:
                bound = p[j]
                if bound <= 0.0:
                    break
                if bound < 1.0:
                    state += STEP
                    jump = math.log(unit(mixed(state))) * leap[j]
                    if jump >= end - j:
                        break
                    j += np.int64(jump)
                    state += STEP
                    if unit(mixed(state)) * bound > p[j]:
                        j += 1
                        continue
                u = sources[j]
                if not visited[u]:
                    visited[u] = 1
                    nodes[used] = u
                    used += 1
                j += 1
        used = finish(nodes, begin, used, visited, keep)
        offsets[s + 1] = used
    return nodes[:used].copy(), offsets


@compiled
def threshold_sets(
    indptr: Any,
    sources: Any,
    weight: Any,
    cumulative: Any,
    roots: Any,
    keep: Any,
    seed: np.uint64,
    first: int,
    count: int,
) -> Any:
    """Sets under linear thresholds: a walk that takes one in-edge with its weight, or ends.

    `weight[v]` is the weight of every edge into v; where edges differ, `cumulative` has the running sums of each row.
    """
    offsets = np.empty(count + 1, np.int64)
    offsets[0] = 0
    nodes = np.empty(max(1024, 4 * count), np.int32)
    visited = np.zeros(len(indptr) - 1, np.uint8)
    used = 0
    for s in range(count):
        state = stream(seed, first + s)
        v = roots[below(mixed(state), len(roots))]
        begin = used
        while not visited[v]:
            visited[v] = 1
            if used == len(nodes):
                nodes = grown(nodes, used, 1)
            nodes[used] = v
            used += 1
            start, end = indptr[v], indptr[v + 1]
            if start == end:
                break
            state += STEP
            draw = unit(mixed(state))
            if len(cumulative):
                if draw > cumulative[end - 1]:
                    break
                low, high = start, end - 1
                while low < high:
                    middle = (low + high) // 2
                    if draw <= cumulative[middle]:
                        high = middle
                    else:
                        low = middle + 1
                v = sources[low]
            else:
                place = math.ceil(draw / weight[v]) - 1
                if place >= end - start:
                    break
                v = sources[start + np.int64(place)]
        used = finish(nodes, begin, used, visited, keep)
        offsets[s + 1] = used
    return nodes[:used].copy(), offsets


@compiled
def hits(nodes: Any, offsets: Any, chosen: Any) -> Any:
    """(sets,) whether each set holds a node with chosen[v] != 0."""
    out = np.zeros(len(offsets) - 1, np.uint8)
    for s in range(len(out)):
        for i in range(offsets[s], offsets[s + 1]):
            if chosen[nodes[i]]:
                out[s] = 1
                break
    return out
