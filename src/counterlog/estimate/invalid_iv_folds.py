"""Every nuisance of one fold, each learner fitted once: predictions for the held-out rows, and for the rows fitted on.

The rows fitted on are predicted by models of their other half (two halves by hash of the unit), so that what is learnt
from them next has not seen its own noise. What depends on Z is fitted apart on the rows with Z = 1 and with Z = 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterlog.core.hashing import Keys, scatter
from counterlog.core.nuisances import CHANCES, Features, Floats, Rows

_HALVES_SALT = 577


@dataclass(frozen=True)
class Observed:
    """The columns as arrays (n,), and the covariates as learners want them."""

    y: Floats
    a: Floats
    z: Floats
    weight: Floats
    features: Features
    keys: Keys
    binary: bool

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.y)


@dataclass(frozen=True)
class Sides:
    """Predictions for the rows fitted on (`train`) and the held-out rows (`test`)."""

    train: Floats
    test: Floats


@dataclass(frozen=True)
class FoldNuisances:
    """By learner: f = Pr(Z=1|X); (2, rows) by arm: e, v = mean and variance of A; m, g = means of Y and of A.

    g is the outcome side's own regression of A, by the learner that fits Y, so that group 3 does not lean on group 2.
    """

    train: Rows
    test: Rows
    half: NDArray[np.int64]
    f: dict[str, Sides]
    e: dict[str, Sides]
    v: dict[str, Sides]
    m: dict[str, Sides]
    g: dict[str, Sides]


def fold_nuisances(
    data: Observed,
    fit: Rows,
    rest: Rows,
    *,
    instrument: Sequence[str],
    treatment: Sequence[str],
    outcome: Iterable[str],
    rng: int,
) -> FoldNuisances:
    """Fit every learner once on the fold's rows and once on each of their halves."""
    half = scatter(data.keys[fit], 2, salt=_HALVES_SALT + rng)
    f = {name: _chance_of_z(data, name, fit, rest, half, rng) for name in instrument}
    e = {
        name: _by_arm(data, name, data.a, fit, rest, half, rng, chance=data.binary)
        for name in dict.fromkeys(treatment)
    }
    v = {name: _variance(data, name, e[name], fit, rest, half, rng) for name in e}
    m, g = {}, {}
    for name in dict.fromkeys(outcome):
        m[name] = _by_arm(data, name, data.y, fit, rest, half, rng, chance=False)
        chance = data.binary and name in CHANCES and name not in data.features.learners
        g[name] = (
            e[name]
            if name in e and (chance or not data.binary)
            else _by_arm(data, name, data.a, fit, rest, half, rng, chance=chance)
        )
    return FoldNuisances(fit, rest, half, f, e, v, m, g)


def _splits(fit: Rows, half: NDArray[np.int64]) -> Iterable[tuple[Rows, NDArray[np.int64]]]:
    """(rows to fit on, positions in `fit` to predict) for the two halves."""
    for h in (0, 1):
        yield fit[half != h], np.flatnonzero(half == h)


def _chance_of_z(
    data: Observed, name: str, fit: Rows, rest: Rows, half: NDArray[np.int64], rng: int
) -> Sides:
    def learn(rows: Rows, wanted: Rows) -> Floats:
        model = data.features.fit(name, rows, data.z[rows], data.weight[rows], chance=True, rng=rng)
        return model(wanted)

    inner = np.empty(len(fit))
    for rows, at in _splits(fit, half):
        inner[at] = learn(rows, fit[at])
    return Sides(inner, learn(fit, rest))


def _by_arm(
    data: Observed,
    name: str,
    target: Floats,
    fit: Rows,
    rest: Rows,
    half: NDArray[np.int64],
    rng: int,
    *,
    chance: bool,
) -> Sides:
    """(2, rows) conditional means of `target` (n,) at Z = 0 and Z = 1."""

    def learn(rows: Rows, wanted: Rows) -> Floats:
        out = np.empty((2, len(wanted)))
        for arm in (0, 1):
            mine = rows[data.z[rows] == arm]
            model = data.features.fit(name, mine, target[mine], data.weight[mine], chance=chance, rng=rng)
            out[arm] = model(wanted)
        return np.clip(out, 0.0, 1.0) if chance else out

    inner = np.empty((2, len(fit)))
    for rows, at in _splits(fit, half):
        inner[:, at] = learn(rows, fit[at])
    return Sides(inner, learn(fit, rest))


def _variance(
    data: Observed, name: str, e: Sides, fit: Rows, rest: Rows, half: NDArray[np.int64], rng: int
) -> Sides:
    """(2, rows) Var(A | Z, X): e (1 - e) for a 0/1 treatment, else the same learner on squared residuals."""
    if data.binary:
        return Sides(e.train * (1 - e.train), e.test * (1 - e.test))
    own = data.z[fit].astype(np.int64)
    square = np.zeros(data.n)
    square[fit] = (data.a[fit] - e.train[own, np.arange(len(fit))]) ** 2
    found = _by_arm(data, name, square, fit, rest, half, rng, chance=False)
    return Sides(np.maximum(found.train, 0.0), np.maximum(found.test, 0.0))
