"""The two halves behind a reusable holdout: their units, the bounds of a query, and what clipping costs.

A query phi gives every row a number in declared bounds [lo, hi]; inside it lives on [0, 1]. Rows of one unit (cluster)
move together, so their sum is clipped at `cap` rows' worth:
    q(S) = (1/n) sum_u min( sum_{i in u} phi_i, cap ),      one unit moves q by at most cap / n.
Whatever is said about clipping is measured on the training half, which is public.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.core.errors import LogError, first_rows, message

Floats = NDArray[np.float64]
Query = Callable[[Any], ArrayLike] | tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class Half:
    """One half: its records (None where only its size is known), rows n, units, and the unit of each row."""

    records: Any
    n: int
    units: int
    code: NDArray[np.int64] | None

    def unit_sums(self, values: Floats, cap: float) -> tuple[Floats, Floats]:
        """(n, ...) values in [0, 1] -> (units, ...) sums per unit, and the same clipped at `cap`."""
        if self.code is None:
            return values, values
        sums = np.zeros((self.units, *values.shape[1:]))
        np.add.at(sums, self.code, values)
        return sums, np.minimum(sums, cap)


@dataclass(frozen=True)
class Means:
    """A query's two means in units of its range, and what clipping did on the training half, in the same units."""

    train: float
    holdout: float
    bound_bias: float = 0.0
    unit_clipped: float = 0.0


def checked_bounds(bounds: tuple[float, float] | None) -> tuple[float, float]:
    """(lo, hi) as floats. Raises `LogError` when they are missing, unbounded or empty."""
    if bounds is None:
        msg = message(
            "the query has no declared range",
            expected="`bounds=(lo, hi)`",
            hint="without a bound one row can move the mean by any amount, so no answer can be guarded; "
            "clip importance-weighted rewards at a quantile of the training half",
        )
        raise LogError(msg)
    lo, hi = float(bounds[0]), float(bounds[1])
    if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
        msg = message(f"bounds ({lo:g}, {hi:g})", expected="two finite numbers, lo < hi")
        raise LogError(msg)
    return lo, hi


def bounds_from_train(values: Floats, quantile: float) -> tuple[float, float]:
    """Public bounds: 0 (or the low quantile, when values are negative) to the `quantile` of the training values."""
    lo = min(0.0, float(np.quantile(values, 1 - quantile)))
    hi = float(np.quantile(values, quantile))
    return (lo, hi) if hi > lo else (lo, lo + 1.0)


def to_unit_range(
    values: ArrayLike, bounds: tuple[float, float], *, n: int, half: str, clip: bool
) -> tuple[Floats, Floats]:
    """(n, ...) query values on [0, 1], and the clipping bias of each column. Raises `LogError` naming the worst value.

    A value of the holdout is never printed: the message would be an unguarded answer.
    """
    lo, hi = bounds
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0 or x.shape[0] != n:
        msg = message(
            f"the query gave {'one number' if x.ndim == 0 else f'{x.shape[0]:,} values'} on the {half} half",
            expected=f"{n:,} values, one per row",
        )
        raise LogError(msg)
    if (bad := np.flatnonzero(~np.isfinite(x.reshape(n, -1)).all(axis=1))).size:
        msg = message(f"the query is not a number on {half} {first_rows(bad)}", expected="finite values")
        raise LogError(msg)
    inside = np.clip(x, lo, hi)
    bias = (inside - x).mean(axis=0) / (hi - lo)
    if not clip and (bad := np.flatnonzero((inside != x).reshape(n, -1).any(axis=1))).size:
        worst = float(x.reshape(-1)[np.argmax(np.abs(inside - x))])
        shown = f", worst {worst:g}" if half == "train" else " (their values stay with the holdout)"
        msg = message(
            f"{bad.size:,} values on the {half} half are outside the declared bounds "
            f"({lo:g}, {hi:g}){shown}; {first_rows(bad)}",
            hint="declare wider bounds, or pass clip=True and read the clipping bias of the answer",
        )
        raise LogError(msg)
    return (inside - lo) / (hi - lo), np.asarray(bias, dtype=np.float64)


class Halves:
    """Training and holdout halves of one log. Raises `LogError` when they share rows or units."""

    def __init__(
        self,
        train: Any,
        holdout: Any,
        *,
        units: tuple[ArrayLike, ArrayLike] | None = None,
        unit_rows: int | None = None,
        unit_quantile: float = 0.995,
    ) -> None:
        codes: list[NDArray[np.int64] | None] = [None, None]
        if units is not None:
            ids = [np.asarray(u) for u in units]
            for k, (records, half) in enumerate(((train, "train"), (holdout, "holdout"))):
                if len(ids[k]) != _rows(records):
                    msg = message(
                        f"{len(ids[k]):,} unit ids for {_rows(records):,} {half} rows",
                        expected="one id per row",
                    )
                    raise LogError(msg)
            if (shared := np.intersect1d(ids[0], ids[1])).size:
                msg = message(
                    f"{shared.size:,} units are in both halves (first: {shared[0]})",
                    expected="every unit in one half only",
                    hint="split the log by unit, not by row",
                )
                raise LogError(msg)
            codes = [np.unique(i, return_inverse=True)[1].astype(np.int64) for i in ids]
        elif shared_rows := _shared_rows(train, holdout):
            msg = message(
                f"{shared_rows:,} rows stand in both halves",
                expected="halves that share no row",
                hint="split first; where equal rows are different records, pass `units` ids",
            )
            raise LogError(msg)
        made = [
            Half(r, _rows(r), _rows(r) if c is None else int(c.max()) + 1, c)
            for r, c in zip((train, holdout), codes, strict=True)
        ]
        self.train, self.holdout = made
        self.cap = 1.0
        if (code := self.train.code) is not None:
            sizes = np.bincount(code)
            self.cap = float(unit_rows or max(1, math.ceil(float(np.quantile(sizes, unit_quantile)))))
        self.fingerprint = _fingerprint(train, holdout)

    @property
    def sensitivity(self) -> float:
        """The most that one holdout unit can move a mean, in query ranges: 1/n without clusters."""
        return self.cap / self.holdout.n

    @property
    def n_effective(self) -> float:
        """Rows of an unclustered holdout with the same Hoeffding bound: n^2 / sum_u min(rows of u, cap)^2."""
        code = self.holdout.code
        if code is None:
            return float(self.holdout.n)
        return float(self.holdout.n**2 / (np.minimum(np.bincount(code), self.cap) ** 2).sum())

    def means(self, phi: Query, bounds: tuple[float, float], *, clip: bool) -> list[Means]:
        """Both means of a query, or of each of m queries when phi gives (n, m). A pair of numbers is taken as means."""
        if callable(phi):
            pair: tuple[Any, Any] = (phi(self.train.records), phi(self.holdout.records))
        else:
            pair = (phi[0], phi[1])
        if np.ndim(pair[0]) == 0 and np.ndim(pair[1]) == 0:
            return [self._given_means(float(pair[0]), float(pair[1]), bounds)]
        found, clipped = [], []
        for half, label, values in ((self.train, "train", pair[0]), (self.holdout, "holdout", pair[1])):
            inside, bias = to_unit_range(values, bounds, n=half.n, half=label, clip=clip)
            sums, kept = half.unit_sums(inside, self.cap)
            found.append(np.atleast_1d(kept.sum(axis=0) / half.n))
            clipped.append((np.atleast_1d(bias), np.atleast_1d((sums - kept).sum(axis=0) / half.n)))
        columns = zip(found[0], found[1], clipped[0][0], clipped[0][1], strict=True)
        return [Means(float(a), float(h), float(b), float(u)) for a, h, b, u in columns]

    def _given_means(self, train: float, holdout: float, bounds: tuple[float, float]) -> Means:
        lo, hi = bounds
        if self.train.code is not None:
            msg = message(
                "two means were given for clustered halves", expected="values per row, to clip per unit"
            )
            raise LogError(msg)
        for value, half in ((train, "train"), (holdout, "holdout")):
            if not lo <= value <= hi:
                shown = f"{value:g}" if half == "train" else "(withheld)"
                msg = message(f"the {half} mean {shown}", expected=f"a mean in [{lo:g}, {hi:g}]")
                raise LogError(msg)
        return Means((train - lo) / (hi - lo), (holdout - lo) / (hi - lo))


def _rows(records: Any) -> int:
    """Rows of an array, frame or log; an integer stands for records of which only the number is known."""
    if isinstance(records, (int, np.integer)):
        return int(records)
    return int(records.n) if hasattr(records, "n") else len(records)


def _row_bytes(records: Any) -> list[bytes] | None:
    """Each row as bytes, for arrays and frames of numbers; None where rows cannot be compared cheaply."""
    if hasattr(records, "to_numpy"):
        records = records.to_numpy()
    if not isinstance(records, np.ndarray) or records.ndim == 0 or records.dtype == object:
        return None
    flat = np.ascontiguousarray(records.reshape(len(records), -1))
    return [row.tobytes() for row in flat]


def _shared_rows(train: Any, holdout: Any) -> int:
    """How many holdout rows also stand in the training half.

    Equal rows mean a shared row only where rows are distinct within each half; small discrete records repeat by chance.
    """
    if train is holdout and not isinstance(train, (int, np.integer)):
        return _rows(train)
    if isinstance(train, np.ndarray) and isinstance(holdout, np.ndarray) and np.shares_memory(train, holdout):
        return min(len(train), len(holdout))
    left, right = _row_bytes(train), _row_bytes(holdout)
    if left is None or right is None:
        return 0
    a, b = set(left), set(right)
    return len(a & b) if len(a) == len(left) and len(b) == len(right) else 0


def _fingerprint(train: Any, holdout: Any) -> str:
    """SHA-256 of both halves' rows, or of their sizes where the rows are not at hand."""
    digest = hashlib.sha256()
    for records in (train, holdout):
        digest.update(str(_rows(records)).encode())
        for row in _row_bytes(records) or ():
            digest.update(row)
    return digest.hexdigest()


def query_hash(means: Means, name: str) -> str:
    """What identifies a query without touching the holdout: SHA-256 of its name and its training mean."""
    return hashlib.sha256(f"{name}\n{means.train!r}".encode()).hexdigest()


def clipping_notes(means: Means, cap: float, scale: float) -> tuple[str, ...]:
    """What clipping did to the training mean, in words; `scale` is the query's range."""
    notes = []
    if means.unit_clipped:
        notes.append(f"clipping units at {cap:g} rows took {means.unit_clipped * scale:.3g} off the mean")
    if means.bound_bias:
        notes.append(f"clipping values to the bounds moved the train mean by {means.bound_bias * scale:.3g}")
    return tuple(notes)


def unguarded_notes(looks: int) -> tuple[str, ...]:
    """What must be said once the holdout was read without the guard."""
    text = f"{looks:,} candidates were compared without the guard before: no interval covers what those looks taught"
    return (text,) if looks else ()
