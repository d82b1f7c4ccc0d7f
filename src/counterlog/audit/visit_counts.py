"""Counting a log's cells, part by part, and what the counts say: shape, sensitivity to the grid, drift.

doubled   expected new pairs from as many steps again, by Chao's extrapolation
drift     pairs that only one tenth of the log holds, a step of it; alike for all tenths when nothing changes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.audit.distinct_pairs import (
    MOST,
    PRECISION,
    Counter,
    Frequencies,
    chao1,
    compact,
    entropy,
    extrapolated,
    frequencies,
    good_turing,
    rarefied,
)
from counterlog.audit.visit_cells import FUSED, SAMPLE, CellGrid, machine_code
from counterlog.core.episodes import Episodes

TENTHS = 10
QUARTER = 0.75
CURVE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LADDER = (100, 64, 50, 32, 24, 16, 12, 10, 8, 6, 5, 4, 3, 2)
RETURNING = 0.5
EVERY = slice(None)


@dataclass(frozen=True)
class Counting:
    """How cells are counted: `method` auto, exact or hll (see `Counter`)."""

    method: str = "auto"
    most: int = MOST
    precision: int = PRECISION
    seed: int = 0

    def counter(self) -> Counter:
        """A fresh counter."""
        return Counter(self.method, most=self.most, precision=self.precision, seed=self.seed)

    def count(
        self,
        log: Episodes,
        grid: CellGrid,
        pairs: Counter,
        states: Counter | None = None,
        rows: slice = EVERY,
    ) -> None:
        """Count the cells of some rows in: as one part where counts are exact, else chunk by chunk."""
        kernels = machine_code() if log.rows >= FUSED else None
        kept: list[tuple[Any, Any]] = []
        for s, p in grid.chunks(log, rows, self.seed):
            if pairs.exact:
                kept.append((s, p))
                continue
            pairs.add(p, kernels)
            if states is not None:
                states.add(s, kernels)
        if kept:
            pairs.add(np.concatenate([p for _, p in kept]))
            if states is not None:
                states.add(np.concatenate([s for s, _ in kept]))


def tenths(log: Episodes) -> list[slice]:
    """The rows of ten parts of whole episodes, in the log's order; of fewer when it has fewer episodes."""
    cuts = np.linspace(0, log.n, min(TENTHS, log.n) + 1).round().astype(np.int64)
    return [slice(int(log.offsets[a]), int(log.offsets[b])) for a, b in pairwise(cuts)]


def best_quarter(log: Episodes, gamma: float) -> Episodes:
    """The episodes whose return is at least the upper quartile."""
    returns = log.returns(gamma)
    return log.take(returns >= np.quantile(returns, QUARTER))


def sample_rows(log: Episodes) -> NDArray[np.int64]:
    """Evenly spaced rows, at most `SAMPLE`."""
    return np.arange(0, log.rows, max(1, log.rows // SAMPLE))


def pair_frequencies(log: Episodes, grid: CellGrid, rows: NDArray[np.int64]) -> Frequencies:
    """Frequencies of the counts of pairs among some rows."""
    return frequencies(compact(np.concatenate([p for _, p in grid.chunks(log, rows)]))[1])


def fit_grid(log: Episodes, bins: int, *, official: bool = False) -> CellGrid:
    """The grid of a log: `bins` cells a column; for 0 the most of `LADDER` with which half of the steps return."""
    grid = CellGrid.fit(log, bins or LADDER[0], official=official)
    if bins or not grid.cut:
        return grid
    rows = sample_rows(log)
    for bins in LADDER:
        if good_turing(pair_frequencies(log, grid.with_bins(bins), rows)) >= RETURNING:
            break
    return grid.with_bins(bins)


def sensitivity(log: Episodes, grid: CellGrid) -> tuple[dict[str, Any], ...]:
    """Pairs and Good-Turing coverage with a quarter, half and twice the bins, on a sample of rows."""
    rows = sample_rows(log)
    found = []
    for bins in sorted({max(2, round(grid.bins * f)) for f in (0.25, 0.5, 1.0, 2.0)}):
        freq = pair_frequencies(log, grid.with_bins(bins), rows)
        found.append(
            {
                "bins": bins,
                "rows": len(rows),
                "pairs": sum(f for _, f in freq),
                "coverage": good_turing(freq),
            }
        )
    return tuple(found)


def drift(sizes: Sequence[int], alone: Sequence[int] | None) -> tuple[dict[str, Any], ...]:
    """One record a part: its steps, the pairs that it alone holds, and their number a step."""
    if alone is None or len(alone) != len(sizes):
        return ()
    return tuple(
        {"part": k + 1, "rows": int(n), "only_here": int(x), "a_step": x / n}
        for k, (n, x) in enumerate(zip(sizes, alone, strict=True))
    )


def shape(freq: Frequencies, rows: int) -> dict[str, Any]:
    """What the counts of pairs say; None throughout for a sketch."""
    names = ("coverage", "pair_bound", "doubled", "pair_entropy", "evenness")
    if not freq:
        return {**dict.fromkeys(names), "rarefaction": ()}
    u, h = float(sum(f for _, f in freq)), entropy(freq)
    steps = sorted({max(1, round(share * rows)) for share in CURVE})
    return {
        "coverage": good_turing(freq),
        "pair_bound": chao1(freq),
        "doubled": extrapolated(freq, rows) - u,
        "pair_entropy": h,
        "evenness": float(np.exp(h) / u),
        "rarefaction": tuple((n, rarefied(freq, n)) for n in steps),
    }
