"""How many different things a log holds: exact counts, what they say about what was not seen, and a sketch.

    rarefaction   E u_n = sum_k [1 - C(N - c_k, n) / C(N, n)]     expected distinct among n of the N rows     (1)
    Good-Turing   C = 1 - f1 / N            chance that one more row shows something seen before              (2)
    Chao1         u + f1 (f1 - 1) / (2 (f2 + 1))   lower bound of what there is; f1, f2: seen once, twice     (3)
    HyperLogLog   register j = first p bits; M_j = largest 1 + leading zeros of the rest
                  E = a m^2 / sum 2^-M_j,  m ln(m / V) while E <= 2.5 m and V registers are empty             (4)

All but (4) need only how many things were seen once, twice, ...: the frequencies of counts.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.files import write_whole

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]
Frequencies = tuple[tuple[int, int], ...]
MOST = 20_000_000
PRECISION = 14


@dataclass(frozen=True, kw_only=True)
class Distinct:
    """A number of distinct things among `rows`, counted (exact) or estimated (hll) with its 95 % interval."""

    value: float
    low: float
    high: float
    rows: int
    method: str = "exact"


def compact(keys: Keys) -> tuple[Keys, Ints]:
    """Distinct keys in order, and how often each occurs. Sorts `keys` in place."""
    keys.sort()
    new = np.empty(len(keys), bool)
    new[:1] = True
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    at = np.flatnonzero(new)
    return keys[at], np.diff(np.append(at, len(keys)))


def frequencies(counts: Ints) -> Frequencies:
    """(count, how many things have it), in order."""
    value, times = np.unique(counts, return_counts=True)
    return tuple(zip(value.tolist(), times.tolist(), strict=True))


def rarefied(found: Frequencies, n: float) -> float:
    """Equation (1)."""
    count, times = (np.array(x, np.float64) for x in zip(*found, strict=True))
    total = float((count * times).sum())
    if not 0 <= n <= total:
        raise ConfigError(message(f"rarefaction to {n:,} rows", expected=f"0 to {total:,.0f}"))
    rest = total - count
    reachable = rest >= n
    r = rest[reachable]
    log_share = gammaln(r + 1) - gammaln(r - n + 1) - gammaln(total + 1) + gammaln(total - n + 1)
    return float(times.sum() - (times[reachable] * np.exp(log_share)).sum())


def good_turing(found: Frequencies) -> float:
    """Equation (2)."""
    once, rows = dict(found).get(1, 0), sum(c * f for c, f in found)
    return 1.0 - once / rows


def chao1(found: Frequencies) -> float:
    """Equation (3), the form without a division by zero."""
    seen = dict(found)
    once, twice = seen.get(1, 0), seen.get(2, 0)
    return sum(seen.values()) + once * (once - 1) / (2 * (twice + 1))


def extrapolated(found: Frequencies, more: float) -> float:
    """Expected distinct after `more` further rows, with (3) as what there is: u + f0 [1 - (1 - q)^more]."""
    seen = dict(found)
    once, rows, distinct = seen.get(1, 0), sum(c * f for c, f in found), sum(seen.values())
    unseen = chao1(found) - distinct
    if unseen == 0 or once == 0:
        return float(distinct)
    rate = once / (rows * unseen + once)
    return float(distinct + unseen * -math.expm1(more * math.log1p(-rate)))


def entropy(found: Frequencies) -> float:
    """Plug-in entropy of the visits in nats."""
    count, times = (np.array(x, np.float64) for x in zip(*found, strict=True))
    share = count / (count * times).sum()
    return float(-(times * share * np.log(share)).sum()) + 0.0


class Sketch:
    """HyperLogLog registers (4): 2^precision bytes whatever the log's size; they add up over parts of a log.

    Sketches can be united only with the same precision and hash seed.
    """

    def __init__(self, precision: int = PRECISION, *, seed: int = 0) -> None:
        if not 11 <= precision <= 18:
            raise ConfigError(message(f"precision {precision}", expected="11 to 18"))
        self.precision, self.seed = precision, seed
        self.registers = np.zeros(1 << precision, np.uint8)

    def add(self, keys: Keys, kernels: Any = None) -> None:
        """Count these keys in; `kernels` are the compiled ones, which give the same registers."""
        if kernels is not None:
            kernels.fill(self.registers, keys, self.precision)
            return
        rest = np.uint64(64 - self.precision)
        tail = (keys & ((np.uint64(1) << rest) - np.uint64(1))).astype(np.float64)
        # the tail has at most 53 bits, so its exponent as a number gives its leading zeros exactly
        bits = np.maximum((tail.view(np.int64) >> 52) - 1022, 0)
        rank = (int(rest) - bits + 1).astype(np.uint8)
        np.maximum.at(self.registers, (keys >> rest).astype(np.intp), rank)

    def unite(self, other: Sketch) -> None:
        """Count in all that another sketch has seen."""
        if (other.precision, other.seed) != (self.precision, self.seed):
            msg = message(
                f"sketches with precision {other.precision}, hash seed {other.seed}",
                expected=f"precision {self.precision}, hash seed {self.seed}",
                hint="sketch every part of a log with the same settings",
            )
            raise ConfigError(msg)
        np.maximum(self.registers, other.registers, out=self.registers)

    @property
    def error(self) -> float:
        """Relative standard error of the estimate."""
        return 1.04 / math.sqrt(len(self.registers))

    def estimate(self) -> float:
        """Equation (4)."""
        m = len(self.registers)
        raw = 0.7213 / (1 + 1.079 / m) * m * m / float(np.ldexp(1.0, -self.registers.astype(np.int64)).sum())
        empty = int(m - np.count_nonzero(self.registers))
        return m * math.log(m / empty) if empty and raw <= 2.5 * m else raw

    def shared(self, other: Sketch) -> tuple[float, float]:
        """Distinct keys seen by both (inclusion and exclusion), and the standard error of that number."""
        both = Sketch(self.precision, seed=self.seed)
        both.unite(self)
        both.unite(other)
        one, two, all_ = self.estimate(), other.estimate(), both.estimate()
        return one + two - all_, self.error * math.sqrt(one**2 + two**2 + all_**2)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the registers, whole or not at all."""
        buffer = BytesIO()
        np.savez(buffer, registers=self.registers, seed=np.int64(self.seed))
        return write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sketch:
        """Read what `save` wrote. Raises `LogError` for another file."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                registers, seed = stored["registers"], int(stored["seed"])
            made = cls(len(registers).bit_length() - 1, seed=seed)
            if registers.dtype != np.uint8 or registers.shape != made.registers.shape:
                msg = f"registers {registers.dtype} of shape {registers.shape}"
                raise ValueError(msg)
        except (OSError, ValueError, KeyError, EOFError) as cause:
            raise LogError(message(f"{os.fspath(path)} is not a saved sketch ({cause})")) from cause
        made.registers[:] = registers
        return made


class Counter:
    """Counts distinct keys of a stream, part by part: exactly up to `most` of them, then as a sketch.

    method  auto (as above), exact (refuses beyond `most`), hll (a sketch from the start)
    """

    def __init__(
        self, method: str = "auto", *, most: int = MOST, precision: int = PRECISION, seed: int = 0
    ) -> None:
        self.method, self.most, self.rows = method, most, 0
        self.sketch = Sketch(precision, seed=seed)
        self.exact = method != "hll"
        self._parts: list[tuple[Keys, Ints]] = []

    def add(self, keys: Keys, kernels: Any = None) -> None:
        """Count one part of the stream in (`kernels` as in `Sketch.add`)."""
        self.rows += len(keys)
        if not self.exact:
            self.sketch.add(keys, kernels)
            return
        self._parts.append(compact(keys.copy()))
        if sum(len(k) for k, _ in self._parts) > self.most:
            self._merge()

    def _merge(self) -> None:
        """One sorted list of all parts; a sketch when it is too long."""
        if len(self._parts) > 1:
            keys, counts = (np.concatenate(x) for x in zip(*self._parts, strict=True))
            order = np.argsort(keys)
            keys = keys[order]
            at = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
            self._parts = [(keys[at], np.add.reduceat(counts[order], at))]
        if len(self._parts[0][0]) > self.most:
            if self.method == "exact":
                msg = message(f"more than {self.most:,} distinct cells", hint="count them with method hll")
                raise SupportError(msg)
            self.exact = False
            self.sketch.add(self._parts[0][0])
            self._parts = []

    def only_here(self) -> list[int] | None:
        """For each part added, how many keys it alone holds; None when parts were merged."""
        if not self.exact or len(self._parts) < 2:
            return None
        keys = np.concatenate([k for k, _ in self._parts])
        owner = np.repeat(np.arange(len(self._parts)), [len(k) for k, _ in self._parts])
        order = np.argsort(keys)
        keys, owner = keys[order], owner[order]
        same = keys[1:] == keys[:-1]
        alone = ~np.concatenate([[False], same]) & ~np.concatenate([same, [False]])
        return [int(x) for x in np.bincount(owner[alone], minlength=len(self._parts))]

    def counts(self) -> tuple[Keys, Ints]:
        """Distinct keys in order and their counts. Raises `SupportError` for a sketch."""
        if self.exact and self._parts:
            self._merge()
        if not self.exact:
            msg = message("a sketch keeps no counts", hint="count with method exact, or raise `most`")
            raise SupportError(msg)
        return self._parts[0]

    def value(self) -> Distinct:
        """How many distinct keys there were."""
        if self.exact and self._parts:
            self._merge()
        if self.exact:
            u = float(len(self._parts[0][0])) if self._parts else 0.0
            return Distinct(value=u, low=u, high=u, rows=self.rows)
        u, off = self.sketch.estimate(), 1.96 * self.sketch.error
        return Distinct(value=u, low=u * (1 - off), high=u * (1 + off), rows=self.rows, method="hll")
