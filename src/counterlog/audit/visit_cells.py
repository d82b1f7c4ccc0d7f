"""Cells of states and actions: a grid that is fitted once, on the reference log, and a 64-bit key of every visit.

    binned column    cell = clip(floor((x - low) / (high - low) bins), -1, bins)                          (1)
    exact column     cell = the value itself (codes, and columns with few levels)
    key              h <- mix(h xor mix(cell_j + c_j)), column by column; mix is the splitmix64 finaliser  (2)

Values beyond the limits have cells of their own, -1 and `bins`. States with more than `WIDE` binned columns are first
projected to `NARROW` random directions. Two different visits share a key with chance 2^-64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.episodes import Episodes
from counterlog.core.errors import LogError, MissingExtraError, message

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]
CHUNK = 1 << 17
LEVELS = 64
SAMPLE = 200_000
FUSED = 5_000_000  # rows from which compiling pays
WIDE, NARROW = 32, 16
_STEP = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


@cache
def machine_code() -> Any:
    """The compiled kernels, or None without numba."""
    try:
        return import_module("counterlog.audit.visit_kernels")
    except MissingExtraError:
        return None


def mix(x: Keys) -> Keys:
    """The splitmix64 finaliser of (2), in place."""
    shifted = x >> _30
    x ^= shifted
    x *= _A
    np.right_shift(x, _27, out=shifted)
    x ^= shifted
    x *= _B
    np.right_shift(x, _31, out=shifted)
    x ^= shifted
    return x


def binned(x: NDArray[Any], low: float, high: float, bins: int) -> NDArray[np.int64]:
    """Equation (1); a column whose limits coincide is one cell."""
    if not high > low:
        return np.zeros(len(x), np.int64)
    scaled = np.asarray(x, np.float64) - low
    scaled *= bins / (high - low)
    np.floor(scaled, out=scaled)
    return np.asarray(scaled.clip(-1, bins, out=scaled).astype(np.int64))


def digitized(x: NDArray[Any], low: float, high: float, edges: int) -> NDArray[np.int64]:
    """The authors' cells: 0 below `low`, 1 .. edges - 1 between equally spaced edges, `edges` from `high` on."""
    found = np.searchsorted(np.linspace(low, high, edges), np.asarray(x, np.float64), side="right")
    return np.asarray(found, np.int64)


@dataclass(frozen=True, kw_only=True)
class CellGrid:
    """What turns a visit into a cell. `low`, `high`, `exact` have an entry a column: states', then continuous actions'.

    `official` cuts columns as the authors do (`digitized`). `directions` > 0: the states are projected first, from
    scaled columns; `mean` and `divisor` are that scaling.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    exact: tuple[bool, ...]
    bins: int
    state_columns: int
    discrete: bool
    official: bool = False
    directions: int = 0
    mean: tuple[float, ...] = ()
    divisor: tuple[float, ...] = ()

    @classmethod
    def fit(cls, log: Episodes, bins: int = 100, *, official: bool = False) -> CellGrid:
        """The limits of a log's states and continuous actions; columns of at most `LEVELS` values are kept exact."""
        state = _columns(log.state)
        few = [_few_levels(state[:, j]) for j in range(state.shape[1])]
        mean: tuple[float, ...] = ()
        divisor: tuple[float, ...] = ()
        directions = NARROW if len(few) - sum(few) > WIDE else 0
        if directions:
            spread = state.std(axis=0, dtype=np.float64)
            mean = tuple(state.mean(axis=0, dtype=np.float64).tolist())
            divisor = tuple(np.where(spread > 0, spread, 1.0).tolist())
            state = _projected(state, mean, divisor, directions)
            few = [False] * directions
        parts = [state] if log.discrete else [state, _columns(log.action)]
        few += [] if log.discrete else [_few_levels(parts[1][:, j]) for j in range(parts[1].shape[1])]
        low = np.concatenate([p.min(axis=0) for p in parts]).astype(np.float64)
        high = np.concatenate([p.max(axis=0) for p in parts]).astype(np.float64)
        return cls(
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            exact=tuple(few),
            bins=bins,
            state_columns=state.shape[1],
            discrete=log.discrete,
            official=official,
            directions=directions,
            mean=mean,
            divisor=divisor,
        )

    def with_bins(self, bins: int) -> CellGrid:
        """The same limits, cut into another number of cells."""
        return replace(self, bins=bins)

    @property
    def cut(self) -> int:
        """How many columns are binned."""
        return len(self.exact) - sum(self.exact)

    @property
    def constant(self) -> tuple[int, ...]:
        """State columns that never change."""
        same = (j for j in range(self.state_columns) if self.low[j] == self.high[j])
        return () if self.directions else tuple(same)

    def check(self, log: Episodes) -> None:
        """Raise `LogError` unless the log's states and actions have the grid's columns."""
        wide = len(self.mean) if self.directions else self.state_columns
        found = _columns(log.state).shape[1]
        actions = 0 if log.discrete else log.action.shape[1]
        if found != wide or log.discrete != self.discrete or actions != len(self.low) - self.state_columns:
            msg = message(
                f"{log!r} has {found} state and {actions} continuous action columns",
                expected=f"{wide} and {len(self.low) - self.state_columns}, as in the reference",
            )
            raise LogError(message(msg, hint="a reference must be a log of the same environment"))

    def keys(
        self, state: NDArray[Any], action: NDArray[Any], seed: int = 0, *, fused: bool = False
    ) -> tuple[Keys, Keys]:
        """(n,) keys of the states and of the pairs, equation (2). `seed` gives another hash.

        `fused` takes one pass of machine code, where numba is installed and cells are not the authors': the same keys.
        """
        table = _columns(state)
        if self.directions:
            table = _projected(table, self.mean, self.divisor, self.directions)
        if fused and not self.official and (kernels := machine_code()) is not None:
            return self._fused(kernels, table, action, seed)
        h = np.full(len(table), np.uint64(seed), np.uint64)
        for j in range(self.state_columns):
            self._take(h, table[:, j], j)
        states = h.copy()
        if self.discrete:
            _fold(h, np.asarray(action).astype(np.uint64), len(self.low))
        else:
            for j in range(action.shape[1]):
                self._take(h, action[:, j], self.state_columns + j)
        return states, h

    def chunks(
        self, log: Episodes, rows: NDArray[np.int64] | slice = slice(None), seed: int = 0
    ) -> Iterator[tuple[Keys, Keys]]:
        """Keys of states and pairs of some rows, `CHUNK` at a time."""
        fused = log.rows >= FUSED
        if isinstance(rows, slice):
            first, last, _ = rows.indices(log.rows)
            for start in range(first, last, CHUNK):
                part = slice(start, min(start + CHUNK, last))
                yield self.keys(log.state[part], log.action[part], seed, fused=fused)
            return
        for start in range(0, len(rows), CHUNK):
            index = rows[start : start + CHUNK]
            yield self.keys(log.state[index], log.action[index], seed, fused=fused)

    def _fused(self, kernels: Any, table: NDArray[Any], action: NDArray[Any], seed: int) -> tuple[Keys, Keys]:
        low, high = np.array(self.low), np.array(self.high)
        scale = np.divide(self.bins, high - low, out=np.zeros(len(low)), where=high > low)
        code = np.asarray(action) if self.discrete else np.zeros(0, np.int64)
        beside = np.zeros((0, 0)) if self.discrete else action
        whole = table.dtype.kind in "iu"
        exact = np.array(self.exact)
        found: tuple[Keys, Keys] = kernels.key_rows(
            table, beside, code, low, scale, self.bins, exact, whole, np.uint64(seed)
        )
        return found

    def _take(self, h: Keys, column: NDArray[Any], j: int) -> None:
        if self.exact[j]:
            _fold(h, _bits(column), j)
        elif self.official:
            _fold(h, digitized(column, self.low[j], self.high[j], self.bins).view(np.uint64), j)
        else:
            _fold(h, binned(column, self.low[j], self.high[j], self.bins).view(np.uint64), j)


def _fold(h: Keys, cell: Keys, j: int) -> None:
    """One step of (2), in place."""
    with np.errstate(over="ignore"):
        h ^= mix(cell + np.uint64(j + 1) * _STEP)
        mix(h)


def _bits(column: NDArray[Any]) -> Keys:
    """The value itself as 64 bits; -0 counts as 0."""
    if column.dtype.kind in "iu":
        return column.astype(np.int64).view(np.uint64)
    return (column.astype(np.float64) + 0.0).view(np.uint64)


def _columns(table: NDArray[Any]) -> NDArray[Any]:
    return table[:, None] if table.ndim == 1 else table


def _few_levels(column: NDArray[Any]) -> bool:
    """Whether a column has at most `LEVELS` values (integer codes always count as such)."""
    if column.dtype.kind in "iu":
        return True
    head = column[:2000]
    if len(np.unique(head)) > LEVELS:
        return False
    return len(np.unique(column[:: max(1, len(column) // SAMPLE)])) <= LEVELS


def _projected(
    table: NDArray[Any], mean: tuple[float, ...], divisor: tuple[float, ...], directions: int
) -> Floats:
    """Scaled columns on random directions, the same ones for the same number of columns."""
    drawn = np.random.default_rng(table.shape[1]).normal(size=(table.shape[1], directions))
    weights = drawn / np.sqrt(table.shape[1]) / np.array(divisor)[:, None]
    found = np.empty((len(table), directions))
    for start in range(0, len(table), CHUNK):
        part = table[start : start + CHUNK].astype(np.float64) - np.array(mean)
        found[start : start + CHUNK] = part @ weights
    return found
