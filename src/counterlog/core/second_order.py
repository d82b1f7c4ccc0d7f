"""Second-order terms of some columns: squares and products, standardised; learnt once, applied to new rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MOST_PRODUCTS = 12


@dataclass(frozen=True)
class SecondOrder:
    """Terms x_i (pairs (i, -1)) and x_i x_j (pairs (i, j)), with the centre and scale of the rows they were made on."""

    pairs: tuple[tuple[int, int], ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def fit(cls, x: Floats, *, most: int = MOST_PRODUCTS) -> SecondOrder:
        """Columns, squares of those with more than two values, and, for at most `most` columns, products.

        Terms that do not vary are left out.
        """
        p = x.shape[1]
        many = [j for j in range(p) if len(np.unique(x[:, j])) > 2]
        pairs = [(j, -1) for j in range(p)] + [(j, j) for j in many]
        if p <= most:
            pairs += [(i, j) for i in range(p) for j in range(i + 1, p)]
        made = _terms(x, pairs)
        centre, scale = made.mean(axis=0), made.std(axis=0)
        kept = [i for i in range(len(pairs)) if scale[i] > 1e-12 * (1 + abs(centre[i]))]
        return cls(
            tuple(pairs[i] for i in kept),
            tuple(float(centre[i]) for i in kept),
            tuple(float(scale[i]) for i in kept),
        )

    def transform(self, x: Floats) -> Floats:
        """(n, p) -> (n, terms)."""
        return np.asarray((_terms(x, self.pairs) - np.asarray(self.centre)) / np.asarray(self.scale))

    def with_constant(self, x: Floats) -> Floats:
        """(n, p) -> (n, 1 + terms), a one in front."""
        return np.column_stack([np.ones(len(x)), self.transform(x)])

    def names(self, columns: tuple[str, ...]) -> tuple[str, ...]:
        """What each term is called."""
        return tuple(columns[i] if j < 0 else f"{columns[i]} * {columns[j]}" for i, j in self.pairs)


def _terms(x: Floats, pairs: list[tuple[int, int]] | tuple[tuple[int, int], ...]) -> Floats:
    if not pairs:
        return np.zeros((len(x), 0))
    return np.column_stack([x[:, i] if j < 0 else x[:, i] * x[:, j] for i, j in pairs])
