"""The ends of many rankings, kept while blocks of scores stream: all pairs are never held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import LogError, message

Floats = NDArray[np.float64]
End = tuple[NDArray[np.int64], Floats]


class Largest:
    """The k largest of n scores for each of m targets, ties by row number."""

    def __init__(self, n: int, m: int, k: int) -> None:
        if not 1 <= k <= n:
            msg = message(f"k = {k} rows were asked for", expected=f"1 to {n}, the number of training rows")
            raise LogError(msg)
        self.k, self.values = k, np.full((m, k), -np.inf)
        self.rows = np.full((m, k), -1, dtype=np.int64)

    def add(self, at: slice, cols: slice, scores: Floats) -> None:
        """Scores (b, m') of the rows `at` for the targets `cols`."""
        number = np.arange(at.start, at.stop)
        keep = min(self.k, len(number))
        top = np.argpartition(-scores, keep - 1, axis=0)[:keep].T if keep < len(number) else None
        found = scores.T if top is None else np.take_along_axis(scores.T, top, axis=1)
        which = np.broadcast_to(number, found.shape) if top is None else number[top]
        both = np.concatenate([self.values[cols], found], axis=1)
        names = np.concatenate([self.rows[cols], which], axis=1)
        order = np.lexsort((names, -both), axis=1)[:, : self.k]
        self.values[cols] = np.take_along_axis(both, order, axis=1)
        self.rows[cols] = np.take_along_axis(names, order, axis=1)


def ends(pieces: Iterator[tuple[slice, slice, Floats]], n: int, m: int, k: int) -> tuple[End, End]:
    """(rows (m, k), scores (m, k)) of the most helpful end and of the most harmful."""
    high, low = Largest(n, m, k), Largest(n, m, k)
    for at, cols, scores in pieces:
        high.add(at, cols, scores)
        low.add(at, cols, -scores)
    return (high.rows, high.values), (low.rows, -low.values)
