"""Clicks from graded lists by a user model: position-based, user browsing, cascade. All lists at once.

A list of grades y (L, K), -1 where nothing is shown, becomes clicks (L, K) in {0, 1}. Attraction of a grade:
a(y) = noise + (1 - noise) (2^y - 1) / (2^Y - 1). Examination chances are raised to `severity`: 0 is no bias, 1 the
published curve, 2 twice as steep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, message

Floats = NDArray[np.float64]
Grades = NDArray[np.integer]
Bits = NDArray[np.uint8]
EYE_TRACKING = (0.68, 0.61, 0.48, 0.34, 0.28, 0.20, 0.11, 0.10, 0.08, 0.06)
BROWSING = (  # row: position; column: distance to the last click, the last column when there was none
    (1.0,),
    (0.98, 1.0),
    (1.0, 0.62, 0.95),
    (1.0, 0.77, 0.42, 0.82),
    (1.0, 0.92, 0.55, 0.31, 0.69),
    (1.0, 0.96, 0.63, 0.4, 0.22, 0.54),
    (1.0, 0.99, 0.73, 0.46, 0.29, 0.17, 0.47),
    (1.0, 1.0, 0.89, 0.52, 0.35, 0.24, 0.14, 0.43),
    (1.0, 1.0, 0.95, 0.68, 0.4, 0.29, 0.19, 0.12, 0.41),
    (1.0, 1.0, 1.0, 0.96, 0.52, 0.36, 0.27, 0.18, 0.12, 0.43),
)


def attraction(grade: Grades, top: int, noise: float = 0.1) -> NDArray[np.float32]:
    """a(y), 0 where nothing is shown. Raises `LogError` for grades above `top`."""
    if grade.max(initial=0) > top:
        raise LogError(message(f"a grade is {int(grade.max())}", expected=f"0 to {top}"))
    by_grade = noise + (1 - noise) * (np.exp2(np.arange(top + 1)) - 1) / (2.0**top - 1)
    found: NDArray[np.float32] = np.append(by_grade, 0.0).astype(np.float32)[grade]
    return found


class ClickModel(Protocol):
    """A user: clicks of lists of grades."""

    def clicks(self, grade: Grades, gen: np.random.Generator) -> Bits:
        """(L, K) in {0, 1}."""
        ...


@dataclass(frozen=True, kw_only=True)
class PositionBased:
    """An item is clicked with chance theta_k^severity a(y), whatever else is clicked; deep positions reuse the last."""

    curve: tuple[float, ...] = EYE_TRACKING
    severity: float = 1.0
    top: int = 4
    noise: float = 0.1

    def examination(self, size: int) -> Floats:
        """(size,) chance that a position is looked at."""
        curve = np.asarray(self.curve)
        return np.asarray(curve[np.minimum(np.arange(size), len(curve) - 1)] ** self.severity)

    def clicks(self, grade: Grades, gen: np.random.Generator) -> Bits:
        """(L, K) in {0, 1}."""
        chance = attraction(grade, self.top, self.noise)
        chance *= self.examination(grade.shape[1]).astype(np.float32)
        return np.asarray(gen.random(grade.shape, dtype=np.float32) < chance).view(np.uint8)


@dataclass(frozen=True, kw_only=True)
class UserBrowsing:
    """Examination depends on the position and on the distance to the last click above it."""

    table: tuple[tuple[float, ...], ...] = BROWSING
    severity: float = 1.0
    top: int = 4
    noise: float = 0.1

    def clicks(self, grade: Grades, gen: np.random.Generator) -> Bits:
        """(L, K) in {0, 1}. Raises `ConfigError` for lists longer than the table."""
        lists, size = grade.shape
        if size > len(self.table):
            msg = message(
                f"lists of {size}", expected=f"at most {len(self.table)} positions: the table's rows"
            )
            raise ConfigError(msg)
        pull = np.ascontiguousarray(attraction(grade, self.top, self.noise).T)
        drawn = gen.random(pull.shape, dtype=np.float32)
        out = np.zeros((size, lists), np.uint8)
        last = np.full(
            lists, -1, np.int64
        )  # position of the last click; before the first, one above the list
        for k in range(size):
            row = np.asarray(self.table[k], np.float32) ** np.float32(self.severity)
            hit = drawn[k] < pull[k] * row[k - 1 - last]
            out[k] = hit
            last[hit] = k
        return np.ascontiguousarray(out.T)


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """Read from the top, click with chance a(y), stop after the first click."""

    top: int = 4
    noise: float = 0.1

    def clicks(self, grade: Grades, gen: np.random.Generator) -> Bits:
        """(L, K) in {0, 1}, at most one 1 a list."""
        wish = gen.random(grade.shape, dtype=np.float32) < attraction(grade, self.top, self.noise)
        first: NDArray[np.bool_] = wish & (np.cumsum(wish, axis=1, dtype=np.int32) == 1)
        found: Bits = first.view(np.uint8)
        return found
