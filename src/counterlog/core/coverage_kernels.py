"""Maximum coverage over reverse-reachable sets in machine code: exact greedy choices, ties to the smallest node.

Coverage only falls as sets are covered, so the largest is kept in heaps whose keys are renewed when they come to the
top. A key is (coverage, -node) in one 64-bit number. Choosing a node walks its sets once and lowers their members:
the whole selection is linear in the sum of the set sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from counterlog.core.compiled import compiled

SHIFT = 1 << 32
LARGEST = SHIFT - 1


@compiled
def inverted(nodes: Any, offsets: Any, n: int) -> Any:
    """(indptr, sets): by node, the sets that hold it. One counting sort."""
    indptr = np.zeros(n + 1, np.int64)
    for v in nodes:
        indptr[v + 1] += 1
    for v in range(n):
        indptr[v + 1] += indptr[v]
    place = indptr[:-1].copy()
    sets = np.empty(len(nodes), np.int32)
    for s in range(len(offsets) - 1):
        for i in range(offsets[s], offsets[s + 1]):
            v = nodes[i]
            sets[place[v]] = s
            place[v] += 1
    return indptr, sets


@compiled
def sink(heap: Any, start: int, stop: int, at: int) -> None:
    """Restore the max-heap in heap[start:stop] below its place `at` (counted from start)."""
    size = stop - start
    value = heap[start + at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[start + child + 1] > heap[start + child]:
            child += 1
        if heap[start + child] <= value:
            break
        heap[start + at] = heap[start + child]
        at = child
    heap[start + at] = value


@compiled
def heaped(heap: Any, start: int, stop: int) -> None:
    """Make heap[start:stop] a max-heap."""
    for at in range((stop - start) // 2 - 1, -1, -1):
        sink(heap, start, stop, at)


@compiled
def top_sum(values: Any, count: int, k: int, room: Any) -> Any:
    """The sum of the k largest of values[:count]; `room` is scratch of size k."""
    if count <= k:
        return values[:count].sum()
    held = 0
    for i in range(count):  # a min-heap of the k largest so far
        x = values[i]
        if held < k:
            at = held
            held += 1
            while at > 0 and room[(at - 1) // 2] > x:
                room[at] = room[(at - 1) // 2]
                at = (at - 1) // 2
            room[at] = x
        elif x > room[0]:
            at = 0
            while True:
                child = 2 * at + 1
                if child >= k:
                    break
                if child + 1 < k and room[child + 1] < room[child]:
                    child += 1
                if room[child] >= x:
                    break
                room[at] = room[child]
                at = child
            room[at] = x
    return room[:k].sum()


@compiled
def cover(v: int, gain: Any, covered: Any, sets_ptr: Any, sets: Any, nodes: Any, offsets: Any) -> int:
    """Choose v: mark its sets covered, lower their members; returns how many it newly covered."""
    new = 0
    for i in range(sets_ptr[v], sets_ptr[v + 1]):
        s = sets[i]
        if not covered[s]:
            covered[s] = 1
            new += 1
            for j in range(offsets[s], offsets[s + 1]):
                gain[nodes[j]] -= 1
    return new


@compiled
def bound_now(gain: Any, list_ptr: Any, friends: Any, capacity: Any, room: Any, values: Any) -> Any:
    """Sum over lists of their `capacity` largest marginal coverages: what any feasible choice can still add."""
    total = 0
    for u in range(len(capacity)):
        start, stop = list_ptr[u], list_ptr[u + 1]
        for i in range(start, stop):
            values[i - start] = gain[friends[i]]
        total += top_sum(values, stop - start, capacity[u], room)
    return total


@compiled
def in_turns(
    nodes: Any, offsets: Any, n: int, list_ptr: Any, friends: Any, capacity: Any, bounded: bool
) -> Any:
    """Round-robin greedy: each list in turn adds its friend of largest marginal coverage, until none has room.

    Returns (list, node and newly covered sets of every choice; the smallest of covered + `bound_now` over the starts
    of rounds). One list without duplicates is plain greedy.
    """
    sets_ptr, sets = inverted(nodes, offsets, n)
    gain = np.diff(sets_ptr)
    covered = np.zeros(len(offsets) - 1, np.uint8)
    chosen = np.zeros(n, np.uint8)
    d = len(capacity)
    heap = np.empty(len(friends), np.int64)
    end = list_ptr[1:].copy()
    longest, most, total = 1, 1, 0
    for u in range(d):
        for i in range(list_ptr[u], list_ptr[u + 1]):
            heap[i] = gain[friends[i]] * SHIFT + (LARGEST - friends[i])
        heaped(heap, list_ptr[u], end[u])
        longest, most = max(longest, end[u] - list_ptr[u]), max(most, capacity[u])
        total += min(capacity[u], end[u] - list_ptr[u])
    room, values = np.empty(most, np.int64), np.empty(longest, np.int64)
    by, node, gained = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.int64)
    size, reached, turn, active = 0, 0, 0, True
    upper = len(offsets) - 1
    while active:
        if bounded:
            upper = min(upper, reached + bound_now(gain, list_ptr, friends, capacity, room, values))
        active = False
        for u in range(d):
            if turn >= capacity[u]:
                continue
            start = list_ptr[u]
            while end[u] > start:
                v = LARGEST - (heap[start] & LARGEST)
                if chosen[v]:
                    end[u] -= 1
                    heap[start] = heap[end[u]]
                elif (heap[start] >> 32) != gain[v]:
                    heap[start] = gain[v] * SHIFT + (LARGEST - v)
                else:
                    chosen[v] = 1
                    new = cover(v, gain, covered, sets_ptr, sets, nodes, offsets)
                    by[size], node[size], gained[size] = u, v, new
                    size += 1
                    reached += new
                    active = True
                    break
                if end[u] > start:
                    sink(heap, start, end[u], 0)
        turn += 1
    return by[:size], node[:size], gained[:size], upper


@compiled
def singly(nodes: Any, offsets: Any, n: int, candidates: Any, k: int) -> Any:
    """Plain greedy: k nodes of `candidates`, with OPIM's bound min over prefixes of covered + k largest marginals."""
    sets_ptr, sets = inverted(nodes, offsets, n)
    gain = np.diff(sets_ptr)
    covered = np.zeros(len(offsets) - 1, np.uint8)
    k = min(k, len(candidates))
    heap = np.empty(len(candidates), np.int64)
    for i in range(len(candidates)):
        heap[i] = gain[candidates[i]] * SHIFT + (LARGEST - candidates[i])
    heaped(heap, 0, len(heap))
    stop, size, reached, upper = len(heap), 0, 0, len(offsets) - 1
    node, gained = np.empty(k, np.int32), np.empty(k, np.int64)
    fresh = np.empty(len(heap), np.int64)
    while True:
        # renew keys from the top until the k largest are fresh: they are popped, summed, and pushed back
        held, total = 0, 0
        while held < k and stop > 0:
            v = LARGEST - (heap[0] & LARGEST)
            if (heap[0] >> 32) != gain[v]:
                heap[0] = gain[v] * SHIFT + (LARGEST - v)
                sink(heap, 0, stop, 0)
                continue
            fresh[held] = heap[0]
            total += gain[v]
            held += 1
            stop -= 1
            heap[0] = heap[stop]
            if stop > 0:
                sink(heap, 0, stop, 0)
        upper = min(upper, reached + total)
        if size == k or held == 0:
            break
        v = LARGEST - (fresh[0] & LARGEST)
        for i in range(1, held):
            heap[stop] = fresh[i]
            at = stop
            stop += 1
            while at > 0 and heap[(at - 1) // 2] < heap[at]:
                heap[at], heap[(at - 1) // 2] = heap[(at - 1) // 2], heap[at]
                at = (at - 1) // 2
        new = cover(v, gain, covered, sets_ptr, sets, nodes, offsets)
        node[size], gained[size] = v, new
        size += 1
        reached += new
    return node[:size], gained[:size], upper


@compiled
def by_gain(
    nodes: Any,
    offsets: Any,
    n: int,
    list_ptr: Any,
    friends: Any,
    capacity: Any,
    owner_ptr: Any,
    owners: Any,
    draw: Any,
    bounded: bool,
) -> Any:
    """Globally greedy: the node of largest marginal coverage goes to a list that has room for it.

    `owners[owner_ptr[v]:owner_ptr[v+1]]` are the lists that may take v. It goes to the one with the fewest unchosen
    friends left, or, when `draw` has a number for every choice, to a random one. The bound is renewed once every
    len(capacity) choices.
    """
    sets_ptr, sets = inverted(nodes, offsets, n)
    gain = np.diff(sets_ptr)
    covered = np.zeros(len(offsets) - 1, np.uint8)
    d = len(capacity)
    left, open_friends = capacity.copy(), np.diff(list_ptr)
    longest, most, total = 1, 1, 0
    for u in range(d):
        longest, most = max(longest, open_friends[u]), max(most, capacity[u])
        total += min(capacity[u], open_friends[u])
    heap, stop = np.empty(n, np.int64), 0
    for v in range(n):
        if owner_ptr[v + 1] > owner_ptr[v]:
            heap[stop] = gain[v] * SHIFT + (LARGEST - v)
            stop += 1
    heaped(heap, 0, stop)
    room, values = np.empty(most, np.int64), np.empty(longest, np.int64)
    by, node, gained = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.int64)
    size, reached, upper = 0, 0, len(offsets) - 1
    while stop > 0:
        if bounded and size % d == 0:
            upper = min(upper, reached + bound_now(gain, list_ptr, friends, capacity, room, values))
        v = LARGEST - (heap[0] & LARGEST)
        if (heap[0] >> 32) != gain[v]:
            heap[0] = gain[v] * SHIFT + (LARGEST - v)
            sink(heap, 0, stop, 0)
            continue
        best, able = -1, 0
        for i in range(owner_ptr[v], owner_ptr[v + 1]):
            u = owners[i]
            if left[u] > 0:
                able += 1
                if best < 0 or open_friends[u] < open_friends[best]:
                    best = u
        if able > 0 and len(draw):
            skip = np.int64(draw[size] * able)
            for i in range(owner_ptr[v], owner_ptr[v + 1]):
                if left[owners[i]] > 0:
                    if skip == 0:
                        best = owners[i]
                        break
                    skip -= 1
        stop -= 1
        heap[0] = heap[stop]
        if stop > 0:
            sink(heap, 0, stop, 0)
        for i in range(owner_ptr[v], owner_ptr[v + 1]):
            open_friends[owners[i]] -= 1
        if best < 0:
            continue
        left[best] -= 1
        new = cover(v, gain, covered, sets_ptr, sets, nodes, offsets)
        by[size], node[size], gained[size] = best, v, new
        size += 1
        reached += new
    return by[:size], node[:size], gained[:size], upper


@compiled
def credited(nodes: Any, offsets: Any, place: Any, holder: Any, picks: int, lists: int) -> Any:
    """On an independent sample: sets newly covered by each choice in order, and sets that one list alone covers.

    `place[v]` is 1 + the place of v among the choices, 0 for none; `holder[v]` the list that chose it, -2 for several.
    """
    first, alone = np.zeros(picks, np.int64), np.zeros(lists, np.int64)
    for s in range(len(offsets) - 1):
        earliest, single = picks, -1
        for i in range(offsets[s], offsets[s + 1]):
            v = nodes[i]
            if place[v] > 0:
                earliest = min(earliest, place[v] - 1)
                if single == -1:
                    single = holder[v]
                elif single != holder[v]:
                    single = -2
        if earliest < picks:
            first[earliest] += 1
            if single >= 0:
                alone[single] += 1
    return first, alone


@compiled
def marginal(nodes: Any, offsets: Any, n: int, chosen: Any) -> Any:
    """(n,) by node: the sets that hold it and no chosen node."""
    out = np.zeros(n, np.int64)
    for s in range(len(offsets) - 1):
        taken = False
        for i in range(offsets[s], offsets[s + 1]):
            if chosen[nodes[i]]:
                taken = True
                break
        if not taken:
            for i in range(offsets[s], offsets[s + 1]):
                out[nodes[i]] += 1
    return out


@compiled
def alone_and_all(nodes: Any, offsets: Any, n: int) -> Any:
    """(n,) sets whose only member is v; (n,) sets that hold v."""
    single, every = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for s in range(len(offsets) - 1):
        for i in range(offsets[s], offsets[s + 1]):
            every[nodes[i]] += 1
        if offsets[s + 1] - offsets[s] == 1:
            single[nodes[offsets[s]]] += 1
    return single, every


@compiled
def assigned(order: Any, owner_ptr: Any, owners: Any, capacity: Any) -> int:
    """How many nodes find a list with room when taken in this order: the seeds of one feasible assignment."""
    left, found = capacity.copy(), 0
    for v in order:
        for i in range(owner_ptr[v], owner_ptr[v + 1]):
            if left[owners[i]] > 0:
                left[owners[i]] -= 1
                found += 1
                break
    return found
