"""SACo: the distinct (state, action) cells of a log over those of a reference, at the same number of rows.

    SACo  = u(log) / u(reference)                                                                         (1)
    lSACo = ln u(log) / ln u(reference)                                                                   (2)

Logs of other size are compared at the smaller one: by the expectation of u there (rarefy), or by drawing rows
(subsample). A sketch cannot be brought to another size, and is never compared with an exact count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterlog.audit.distinct_pairs import Distinct, Frequencies, rarefied
from counterlog.audit.visit_cells import CellGrid
from counterlog.audit.visit_counts import Counting
from counterlog.core.episodes import Episodes
from counterlog.core.errors import SupportError, message

SIZES = ("rarefy", "subsample", "refuse")
DRAWS = 5


@dataclass(frozen=True)
class Side:
    """One of the two logs: its count, the frequencies of its counts (exact ones), itself (for drawing rows)."""

    pairs: Distinct
    frequencies: Frequencies
    log: Episodes | None = None


@dataclass(frozen=True)
class Ratio:
    """(1) with the error of the counting at 95 %, (2), the rows compared, and what the reference has there."""

    saco: float | None = None
    saco_low: float | None = None
    saco_high: float | None = None
    lsaco: float | None = None
    compared_rows: int | None = None
    reference_pairs: float | None = None


def coverage_ratio(
    own: Side, other: Side, grid: CellGrid, counting: Counting, *, sizes: str = "rarefy", rng: int = 0
) -> Ratio:
    """Equations (1) and (2). Raises `SupportError` when the two counts cannot be compared."""
    if own.pairs.method != other.pairs.method:
        msg = message(
            f"this log's pairs are counted by {own.pairs.method}, the reference's by {other.pairs.method}",
            expected="the same way for both",
            hint="set counting to hll or exact for both",
        )
        raise SupportError(msg)
    rows = min(own.pairs.rows, other.pairs.rows)
    if own.pairs.rows != other.pairs.rows and sizes == "refuse":
        msg = message(
            f"{own.pairs.rows:,} rows against {other.pairs.rows:,} of the reference", expected="equal sizes"
        )
        raise SupportError(message(msg, hint="sizes=rarefy compares them at the smaller size"))
    a, b = (brought_to(side, rows, grid, counting, sizes, rng) for side in (own, other))
    ratio = a.value / b.value
    off = float(np.hypot(a.high / a.value - 1, b.high / b.value - 1))
    return Ratio(
        saco=ratio,
        saco_low=ratio * (1 - off),
        saco_high=ratio * (1 + off),
        lsaco=float(np.log(a.value) / np.log(b.value)) if b.value > 1 else None,
        compared_rows=rows,
        reference_pairs=b.value,
    )


def brought_to(side: Side, rows: int, grid: CellGrid, counting: Counting, sizes: str, rng: int) -> Distinct:
    """The count of one log at `rows` rows."""
    if side.pairs.rows == rows:
        return side.pairs
    if sizes == "subsample":
        return subsampled(side, rows, grid, counting, rng)
    if side.pairs.method == "hll":
        msg = message(f"a sketch of {side.pairs.rows:,} rows cannot be brought to {rows:,}")
        raise SupportError(message(msg, hint="set sizes=subsample, or counting=exact"))
    u = rarefied(side.frequencies, rows)
    return Distinct(value=u, low=u, high=u, rows=rows)


def subsampled(side: Side, rows: int, grid: CellGrid, counting: Counting, rng: int) -> Distinct:
    """Mean count of `rows` rows drawn without replacement, over `DRAWS` draws."""
    if side.log is None:
        msg = message("rows of a kept reference, or of a log in parts, cannot be drawn")
        raise SupportError(message(msg, hint="give whole logs, or sizes=rarefy"))
    found = []
    for k in range(DRAWS):
        counter = counting.counter()
        drawn = np.sort(np.random.default_rng([rng, k]).choice(side.log.rows, rows, replace=False))
        for _, pairs in grid.chunks(side.log, drawn, counting.seed):
            counter.add(pairs)
        found.append(counter.value())
    mean, off = float(np.mean([d.value for d in found])), found[0].high / found[0].value - 1
    return Distinct(
        value=mean, low=mean * (1 - off), high=mean * (1 + off), rows=rows, method=found[0].method
    )
