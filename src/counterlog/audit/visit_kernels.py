"""The keys of visits and the registers of a sketch in machine code: each row read once, the bits of the numpy path."""

from __future__ import annotations

from typing import Any

import numpy as np

from counterlog.core.compiled import compiled
from counterlog.core.random_streams import STEP, mixed

ONE, ZERO = np.uint64(1), np.uint64(0)


@compiled
def cells_of(
    table: Any, i: int, h: np.uint64, first: int, low: Any, scale: Any, bins: int, exact: Any, whole: bool
) -> Any:
    """`h` with the cells of row i of a table folded in; its columns are numbers `first`, ... of the grid.

    scale is the cells a unit, 0 for a column that is one cell; `whole`: the table holds integers.
    """
    for j in range(table.shape[1]):
        k = first + j
        if exact[k]:
            if whole:
                cell = np.uint64(np.int64(table[i, j]))
            else:
                x = np.float64(table[i, j])
                cell = ZERO if x == 0.0 else x.view(np.uint64)
        elif scale[k] == 0.0:
            cell = ZERO
        else:
            place = np.floor((np.float64(table[i, j]) - low[k]) * scale[k])
            cell = np.uint64(np.int64(min(max(place, -1.0), float(bins))))
        h = mixed(h ^ mixed(cell + np.uint64(k + 1) * STEP))
    return h


@compiled
def key_rows(
    state: Any,
    action: Any,
    code: Any,
    low: Any,
    scale: Any,
    bins: int,
    exact: Any,
    whole: bool,
    seed: np.uint64,
) -> Any:
    """(n,) keys of states and of pairs. `action` (n, k) has no columns where actions are codes, `code` no rows else."""
    n = len(state)
    first = np.empty(n, np.uint64)
    second = np.empty(n, np.uint64)
    discrete = len(code) > 0
    for i in range(n):
        h = cells_of(state, i, seed, 0, low, scale, bins, exact, whole)
        first[i] = h
        if discrete:
            h = mixed(h ^ mixed(np.uint64(code[i]) + np.uint64(len(low) + 1) * STEP))
        else:
            h = cells_of(action, i, h, state.shape[1], low, scale, bins, exact, False)
        second[i] = h
    return first, second


@compiled
def fill(registers: Any, keys: Any, precision: int) -> None:
    """Count keys into HyperLogLog registers, in place."""
    rest = np.uint64(64 - precision)
    top = ONE << np.uint64(63)
    for i in range(len(keys)):
        key = keys[i]
        tail = key << np.uint64(precision)
        rank = 1
        while rank <= 64 - precision and not tail & top:
            tail = tail << ONE
            rank += 1
        place = key >> rest
        if rank > registers[place]:
            registers[place] = rank
