"""The rows, units and segments that sway the answer most.

The answer is the difference between the best policy and what was done. A row's influence is the first-order change of
the difference when the row is added (the influence function of the estimate); for those that matter most the
difference is recomputed without them, with the reward model as it was fitted. `flip` counts the rows that someone
would have to pick and remove to turn the sign of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.estimators import Estimator, Parts, array_row
from counterlog.core.intervals import influence
from counterlog.core.moments import combine
from counterlog.core.policies import Policy
from counterlog.core.results import show
from counterlog.core.rounds import Rounds
from counterlog.report.segments import segment_codes

Floats = NDArray[np.float64]
TOP = 10


@dataclass(frozen=True, kw_only=True)
class Swayer:
    """A row, unit or segment, and the answer without it. `share` is its share of all rows."""

    kind: str
    name: str
    rows: int
    share: float
    influence: float
    without: float
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Sway:
    """What sways `first` minus `second`. `flip` is -1 when no removal of rows turns the sign."""

    first: str
    second: str
    estimator: str
    answer: float
    unit: str
    rows: tuple[Swayer, ...]
    units: tuple[Swayer, ...]
    segments: tuple[Swayer, ...]
    flip: int
    n: int


def terms(log: Rounds, policy: Policy, estimator: Estimator, q: Floats | None, *, rng: int = 0) -> Floats:
    """(n, 4) terms (a, b, c, size) of one policy by one estimator; what a part lacks is 0 over 1."""
    known = q if estimator.needs_model else None
    own = estimator.prepare(log, policy, q=known, rng=rng)
    if "parts" in own:
        parts: Parts = own["parts"]
    else:
        weights = estimator.needs_propensity and "w" not in own
        row = array_row(log, policy, None if "v" in own else known, weights=weights)
        parts = estimator.parts(replace(row, **{k: own[k] for k in ("w", "q", "v") if k in own}))
    out = np.zeros((log.n, 4))
    out[:, 2:] = 1.0
    for j, part in enumerate((parts.mean, parts.top, parts.bottom)):
        if part is not None:
            out[:, j] = part
    return out


def sway(
    log: Rounds, first: tuple[str, Floats], second: tuple[str, Floats], *, estimator: str, unit: str
) -> Sway:
    """What sways the difference between two policies, given by name and terms (n, 4)."""
    pair = (first[1], second[1])
    moves = own_influence(*pair)
    totals = tuple(t.sum(axis=0) for t in pair)
    answer = _difference(totals[0], totals[1])
    codes, names = _units(log)
    order = np.argsort(-np.abs(moves), kind="stable")[:TOP]
    rows = [
        Swayer(
            kind="row",
            name=f"row {i}",
            rows=1,
            share=1 / log.n,
            influence=float(moves[i]),
            without=_difference(totals[0] - pair[0][i], totals[1] - pair[1][i]),
            detail=describe_row(log, int(i)),
        )
        for i in order
    ]
    return Sway(
        first=first[0],
        second=second[0],
        estimator=estimator,
        answer=answer,
        unit=unit,
        rows=tuple(rows),
        units=tuple(_groups(codes, "unit", names, pair, moves)),
        segments=tuple(s for c in log.segment_columns for s in _segment(log, c, pair, moves)),
        flip=rows_to_flip(pair, moves, answer),
        n=log.n,
    )


def own_influence(first: Floats, second: Floats) -> Floats:
    """(n,) first-order change of the difference when each row's own terms (n, 4) are added."""
    return np.asarray((influence(*first.T) - influence(*second.T)) / len(first))


def _difference(first: Floats, second: Floats) -> float:
    """The difference from sums (4,); NaN when nothing is left of one of them."""
    if first[2] == 0 or second[2] == 0 or first[3] <= 0:
        return float("nan")
    return float(combine(first) - combine(second))


def rows_to_flip(pair: tuple[Floats, Floats], moves: Floats, answer: float) -> int:
    """The fewest rows, taken in the order of their influence, without which the answer has the other sign; checked by
    recomputing. -1 when half of the rows are not enough."""
    order = np.argsort(-moves if answer > 0 else moves, kind="stable")[: len(moves) // 2]
    left = []
    for t in pair:
        kept = t.sum(axis=0) - np.cumsum(t[order], axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            left.append(kept[:, 0] / kept[:, 3] + kept[:, 1] / kept[:, 2])
    turned = np.flatnonzero((left[0] - left[1]) * np.sign(answer) < 0)
    return int(turned[0]) + 1 if turned.size and answer != 0 else -1


def _groups(
    codes: NDArray[Any] | None, kind: str, names: Sequence[str], pair: tuple[Floats, Floats], moves: Floats
) -> list[Swayer]:
    """The `TOP` groups of rows that sway most, each left out in turn."""
    if codes is None:
        return []
    size = np.bincount(codes, minlength=len(names))
    total = np.bincount(codes, moves, minlength=len(names))
    order = np.argsort(-np.abs(total), kind="stable")[:TOP]
    sums = [
        np.column_stack([np.bincount(codes, column, minlength=len(names)) for column in t.T]) for t in pair
    ]
    whole = [t.sum(axis=0) for t in pair]
    return [
        Swayer(
            kind=kind,
            name=str(names[g]),
            rows=int(size[g]),
            share=float(size[g] / len(codes)),
            influence=float(total[g]),
            without=_difference(whole[0] - sums[0][g], whole[1] - sums[1][g]),
        )
        for g in order
        if size[g]
    ]


def _units(log: Rounds) -> tuple[NDArray[np.int64] | None, list[str]]:
    """(n,) codes 0.. of the units, and their names."""
    if log.unit_column is None or log.unit is None:
        return None, []
    _, first, codes = np.unique(log.unit, return_index=True, return_inverse=True)
    return codes, [str(v) for v in log.table[log.unit_column][first.tolist()].to_list()]


def _segment(log: Rounds, column: str, pair: tuple[Floats, Floats], moves: Floats) -> list[Swayer]:
    codes, names = segment_codes(log, column)
    return _groups(codes, column, names, pair, moves)


def describe_row(log: Rounds, i: int) -> str:
    """A row in words: action, reward, propensity, context."""
    row = log.table.row(i, named=True)
    shown = [
        f"{log.action_column}={row[log.action_column]}",
        f"{log.reward_name}={show(row[log.reward_name])}",
    ]
    if log.propensity_role is not None:
        shown.append(f"propensity={show(float(log.propensity[i]))}")
    shown += [f"{c}={show(row[c])}" for c in log.context_columns[:4]]
    return ", ".join(shown)
