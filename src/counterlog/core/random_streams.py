"""Splittable random numbers for compiled loops: splitmix64, one stream an item of work.

The stream of item i depends on (seed, i) alone, so results are the same on any number of threads and in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from counterlog.core.compiled import compiled

STEP = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)
S11, S32 = np.uint64(11), np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)
UNIT = 2.0**-53


@compiled
def mixed(state: np.uint64) -> np.uint64:
    """The number of a state: 64 random bits. The next state is this one plus `STEP`."""
    z = state
    z = (z ^ (z >> _30)) * _A
    z = (z ^ (z >> _27)) * _B
    return z ^ (z >> _31)


@compiled
def stream(seed: np.uint64, item: int) -> np.uint64:
    """The first state of an item's stream."""
    return mixed(seed ^ mixed(np.uint64(item) * STEP + _B))


@compiled
def unit(bits: np.uint64) -> float:
    """64 random bits as a number in (0, 1]: never 0, so that its logarithm is finite."""
    return (np.float64(bits >> S11) + 1.0) * UNIT


@compiled
def below(bits: np.uint64, n: int) -> Any:
    """64 random bits as a whole number in [0, n), n < 2^31; uniform up to n / 2^32."""
    return np.int64(((bits >> S32) * np.uint64(n)) >> S32)
