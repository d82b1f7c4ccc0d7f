"""The winner quoted from rows that took no part in choosing it, and the budget that this cost.

Half of the units train (the single actions are ranked and a policy is learnt there), the other half is asked through a
reusable holdout: one question a candidate, best training value first, and one fresh quote for the winner. Values are
importance-weighted rewards, whose bounds come from the training half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from counterlog.audit.guarded_select import Selection, guarded_select
from counterlog.core.crossfit import folds_of
from counterlog.core.errors import CounterlogError
from counterlog.core.policies import Policy, Table, checked_logged_probs, parse_policy
from counterlog.core.rounds import Rounds
from counterlog.learn.softmax_policy import SoftmaxLearner
from counterlog.report.wording import BASELINE, BEST_FIXED, LEARNT

Floats = NDArray[np.float64]
SMALLEST = 200
_SALT = 7


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one candidate was told: its value with a band that holds for all candidates together."""

    policy: str
    value: float
    lo: float
    hi: float
    source: str
    training: float


@dataclass(frozen=True, kw_only=True)
class HoldoutPart:
    """The honest quote of the winner and the budget. `n` counts the independent units of the asked half."""

    winner: str
    value: float
    lo: float
    hi: float
    unit: str
    n: int
    level: float
    road: str
    reason: str
    questions: int
    budget: int
    used: int
    left: int
    looks: int
    asked: tuple[Asked, ...]
    notes: tuple[str, ...]


def holdout_part(
    log: Rounds, candidates: Sequence[Policy | str], *, frozen: bool, level: float = 0.95, rng: int = 0
) -> HoldoutPart | None:
    """None when a half would have fewer than 100 units, or when fewer than two candidates can be asked.

    `frozen`: the candidates were fixed before anybody saw an answer.
    """
    half = folds_of(log, 2, rng=rng + _SALT)
    train, rest = np.flatnonzero(half == 0), np.flatnonzero(half == 1)
    if min(len(np.unique(_units(log)[rows])) for rows in (train, rest)) < SMALLEST / 2:
        return None
    names, columns = [], []
    for candidate in candidates:
        try:
            policy = _on_half(log, candidate, train, rng)
            columns.append(checked_logged_probs(policy, log) / log.propensity * log.reward)
            names.append(policy.name)
        except CounterlogError:
            continue
    if len(names) < 2:
        return None
    values = np.column_stack(columns)
    sums = [_per_unit(values[rows], _units(log)[rows]) for rows in (train, rest)]
    scale = [len(rows) / len(s) for rows, s in zip((train, rest), sums, strict=True)]
    means = [s / k for s, k in zip(sums, scale, strict=True)]
    lo, hi = float(means[0].min()), float(means[0].max())
    if not hi > lo:
        return None
    made = guarded_select(
        means[0],
        means[1],
        names,
        bounds=(lo, hi),
        frozen_first=frozen,
        level=level,
        unit=log.reward_unit,
        rng=rng,
    )
    return _part(made, log.reward_unit)


def _part(made: Selection, unit: str) -> HoldoutPart:
    rows = [
        Asked(
            policy=str(c["name"]),
            value=float(c["value"]),
            lo=float(c["lo"]),
            hi=float(c["hi"]),
            source=str(c["source"]),
            training=float(c["train_value"]),
        )
        for c in made.candidates
    ]
    return HoldoutPart(
        winner=made.winner,
        value=made.value,
        lo=made.lo,
        hi=made.hi,
        unit=unit,
        n=made.n,
        level=made.level,
        road=made.road,
        reason=made.reason,
        questions=made.questions,
        budget=made.budget,
        used=made.budget - made.budget_left,
        left=made.budget_left,
        looks=len(rows),
        asked=tuple(rows),
        notes=made.notes,
    )


def _units(log: Rounds) -> NDArray[np.int64]:
    return np.arange(log.n) if log.unit is None else log.unit


def _per_unit(values: Floats, units: NDArray[np.int64]) -> Floats:
    """(units, m) sums over the rows of a unit."""
    _, codes = np.unique(units, return_inverse=True)
    return np.column_stack([np.bincount(codes, column) for column in values.T])


def _on_half(log: Rounds, candidate: Policy | str, train: NDArray[np.int64], rng: int) -> Policy:
    """The candidate made without the asked half: the best single action and the learnt policy are chosen anew."""
    name = candidate if isinstance(candidate, str) else candidate.name
    if name == BEST_FIXED:
        w = 1.0 / log.propensity[train]
        total = np.bincount(log.action[train], w * log.reward[train], minlength=len(log.actions))
        mass = np.bincount(log.action[train], w, minlength=len(log.actions))
        value = np.divide(total, mass, out=np.full(len(mass), -np.inf), where=mass > 0)
        ranked = np.broadcast_to(value, (log.n, len(value)))
        choice = (ranked if log.available is None else np.where(log.available, ranked, -np.inf)).argmax(
            axis=1
        )
        return Table(BEST_FIXED, np.eye(len(value))[choice])
    if name == LEARNT:
        with threadpool_limits(1):
            return SoftmaxLearner().fit(log.take(train), rng=rng, name=LEARNT)
    if name == BASELINE or isinstance(candidate, str):
        return parse_policy(name, log, rng=rng)
    return candidate
