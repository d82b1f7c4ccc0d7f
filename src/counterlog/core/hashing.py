"""Stable hashes of units: which fold and which bucket a unit belongs to is a pure function of the unit's own value.

No index arrays are kept, so that a part of the log, a later day or another machine gives the same answer.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import polars as pl
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)


def unit_keys(column: pl.Series) -> Keys:
    """(n,) keys of the units' values: integers stand for themselves, everything else is hashed as its text."""
    if column.dtype.is_integer():
        return column.cast(pl.Int64).to_numpy().view(np.uint64)
    text = column.cast(pl.String)
    distinct = text.unique()
    hashed = [
        int.from_bytes(blake2b(t.encode(), digest_size=8).digest(), "little") for t in distinct.to_list()
    ]
    return text.replace_strict(distinct, pl.Series(hashed, dtype=pl.UInt64)).to_numpy()


def row_keys(n: int, first: int = 0) -> Keys:
    """(n,) keys of rows that are their own units: the row numbers, from `first` in a part of a larger log."""
    return np.arange(first, first + n, dtype=np.uint64)


def scatter(keys: Keys, parts: int, *, salt: int) -> NDArray[np.int64]:
    """(n,) part 0..parts-1 of each key; different salts give independent partitions (the splitmix64 finaliser)."""
    with np.errstate(over="ignore"):
        x = (keys + np.uint64(salt + 1) * _STEP).astype(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * _MULTIPLIERS[0]
        x = (x ^ (x >> np.uint64(27))) * _MULTIPLIERS[1]
        x ^= x >> np.uint64(31)
    return (x % np.uint64(parts)).astype(np.int64)
