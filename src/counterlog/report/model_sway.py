"""The rows that sway the answer through the reward model.

A logged row acts twice. Its own term enters the estimate, with the model as it was fitted: the influence function in
`sway`. And it trained the reward model of the other folds, which predicts what the candidates earn: the answer's slope
by the row's weight in training. For a boosted-tree model that slope is had without training again, the shape of the
trees held fixed:

    M(q)     = mean_j sum_a (pi_1 - pi_0)(a | x_j) q(x_j, a)                      what the model alone says        (1)
    exact_i  = dM / dw_i through every later tree                                 (`trace.leaf_adjoint`)           (2)
    boostin_i = sum over rounds of [same leaf] (shift of the leaf by row i) x (slope of M at that round)           (3)

(3) is what BoostIn adds up: it lets no later tree correct an earlier one, so it ranks rows much as (2) does and
overstates their effect. An estimate that corrects the model with weights (DR) subtracts mean_j (w_1 - w_0) q(x_j, a_j)
from (1): most of what a row does through the model then cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from counterlog.core.crossfit import FoldModel, action_features
from counterlog.core.errors import CounterlogError, SupportError
from counterlog.core.estimators import importance_weights
from counterlog.core.features import Encoder
from counterlog.core.policies import Policy
from counterlog.core.rounds import Rounds
from counterlog.core.sklearn_trees import rows_trained_on
from counterlog.core.tree_models import TreeEnsemble, read_trees
from counterlog.report.sway import describe_row
from counterlog.trace.boosting_path import require_newton, trained
from counterlog.trace.leaf_adjoint import adjoint

Floats = NDArray[np.float64]
CORRECTED = ("DR",)
TOP, BLOCK, ATOL = 10, 2**14, 1e-5


@dataclass(frozen=True, kw_only=True)
class ModelSwayer:
    """A row: its BoostIn score, the exact slope (2), the same within the estimate, and its own term's influence."""

    row: int
    detail: str
    boostin: float
    exact: float
    within_estimate: float
    own: float


@dataclass(frozen=True, kw_only=True)
class ModelSway:
    """What sways `first` minus `second` through the reward model, in `unit` per decision and row added.

    `agreement` is the rank correlation of |BoostIn| with |influence of the row's own term| over all rows, `shared`
    how many of the ten largest they have in common; `exactness` is the rank correlation of BoostIn with (2),
    `overstated` the median ratio of their sizes. `cancelled` is the share of (2) that is gone within the estimate: 0
    when it rests on the model alone, near 1 when weights correct it. Without rows, `notes` say why.
    """

    first: str
    second: str
    estimator: str
    unit: str
    n: int
    rows: tuple[ModelSwayer, ...] = ()
    agreement: float = float("nan")
    exactness: float = float("nan")
    overstated: float = float("nan")
    cancelled: float = float("nan")
    shared: int = 0
    model: str = ""
    notes: tuple[str, ...] = ()


def model_sway(
    log: Rounds,
    first: Policy,
    second: Policy,
    models: Sequence[FoldModel],
    own: Floats,
    *,
    estimator: str,
    unit: str,
) -> ModelSway | None:
    """What rows do through the fitted fold models; None when these are no boosted trees.

    `own` (n,) is the influence of each row's own term on the answer.
    """
    try:
        readings = [read_trees(m.model) for m in models]
    except CounterlogError:
        return None
    if not readings:
        return None
    empty = ModelSway(first=first.name, second=second.name, estimator=estimator, unit=unit, n=log.n)
    try:
        boostin, exact, within = _slopes(
            log, first, second, models, readings, corrected=estimator in CORRECTED
        )
    except CounterlogError as cause:
        return replace(empty, notes=(f"not computed: {str(cause).splitlines()[0]}",))
    if not np.abs(exact).max() > 0:
        return replace(empty, notes=("no row moves the model's answer",))
    if estimator not in (*CORRECTED, "DM"):
        within = np.zeros_like(exact)
    top = np.argsort(-np.abs(boostin), kind="stable")[:TOP]
    large = np.abs(exact) > np.quantile(np.abs(exact), 0.5)
    return replace(
        empty,
        rows=tuple(
            ModelSwayer(
                row=int(i),
                detail=describe_row(log, int(i)),
                boostin=float(boostin[i]),
                exact=float(exact[i]),
                within_estimate=float(within[i]),
                own=float(own[i]),
            )
            for i in top
        ),
        agreement=_rank_correlation(np.abs(boostin), np.abs(own)),
        exactness=_rank_correlation(boostin, exact),
        overstated=float(np.median(np.abs(boostin[large]) / np.abs(exact[large])))
        if large.any()
        else float("nan"),
        cancelled=float(1 - np.abs(within).sum() / np.abs(exact).sum()),
        shared=len(set(top.tolist()) & set(np.argsort(-np.abs(own), kind="stable")[:TOP].tolist())),
        model=readings[0].backend,
    )


def _slopes(
    log: Rounds, first: Policy, second: Policy, models: Sequence[FoldModel], readings: Sequence[TreeEnsemble],
    *, corrected: bool,
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """(n,) each: (3), (2), and (2) within an estimate that subtracts the weighted predictions of logged actions."""
    x = Encoder.fit(log.context).transform(log.context)
    taken, weighted = _coefficients(log, first, second, corrected=corrected)
    found = np.zeros((3, log.n))
    for fold, trees in zip(models, readings, strict=True):
        reward = log.reward[fold.fit]
        y = reward.astype(int) if trees.classes is not None else reward
        grown = (
            rows_trained_on(fold.model, y) if hasattr(fold.model, "do_early_stopping_") else np.arange(len(y))
        )
        data = trained(*_by_number(trees, fold.features[grown]), y[grown])
        require_newton(data, ATOL)
        by_path, ends = _pulls(trees, x, fold.rest, taken, weighted, log)
        exact, boostin = adjoint(data, ends if corrected else ends[:, :1], by_path)
        found[:, fold.fit[grown]] += np.stack([boostin, exact[:, 0], exact[:, -1]])
    return found[0], found[1], found[2]


def _by_number(trees: TreeEnsemble, features: Floats) -> tuple[TreeEnsemble, NDArray[np.int64]]:
    """The same trees over row numbers (n, 1): the leaves of these rows are looked up once, not in every pass."""
    leaves = trees.leaves(features)
    known = replace(trees, n_features=1, find_leaves=lambda rows: leaves[rows[:, 0]])
    return known, np.arange(len(leaves))[:, None]


def _coefficients(log: Rounds, first: Policy, second: Policy, *, corrected: bool) -> tuple[Floats, Floats]:
    """(n, actions) coefficients of q(x, a) in (1), and (n,) of q at the logged action within the estimate.

    A policy whose probabilities the log does not hold (what was done) needs no model and has none.
    """
    taken, weighted = np.zeros((log.n, len(log.actions))), np.zeros(log.n)
    for sign, policy in ((1.0, first), (-1.0, second)):
        try:
            probs = policy.probs(log)
        except SupportError:
            continue
        taken += sign * probs / log.n
        if corrected:
            weighted -= sign * importance_weights(log, policy) / log.n
    return taken, weighted


def _pulls(
    trees: TreeEnsemble, x: Floats, rest: NDArray[np.int64], taken: Floats, weighted: Floats, log: Rounds
) -> tuple[Floats, Floats]:
    """Slopes by leaf: (L,) of (1) with the predictions' slope before every round, and (L, 2) with that at the end, of
    (1) and of (1) with the logged actions' correction. The targets are all (row, action) pairs that count."""
    actions = len(log.actions)
    scale = 1.0 if trees.classes is None else float(trees.classes[-1]) - float(trees.classes[0])
    by_path, ends = np.zeros(trees.n_leaves), np.zeros((2, trees.n_leaves))
    for a in range(actions):
        within = taken[rest, a] + np.where(log.action[rest] == a, weighted[rest], 0.0)
        used = np.flatnonzero((taken[rest, a] != 0) | (within != 0))
        for start in range(0, len(used), BLOCK):
            part = used[start : start + BLOCK]
            alone, kept = scale * taken[rest[part], a], scale * within[part]
            phi = action_features(x[rest[part]], np.full(len(part), a), actions, interact=False)
            leaves = trees.leaves(phi)[..., 0]
            flat, rounds = leaves.ravel(), leaves.shape[1]
            p = trees.link(trees.path(leaves[..., None])[..., 0])
            slope = np.ones_like(p) if trees.objective == "squared" else p * (1 - p)
            by_path += np.bincount(flat, (alone[:, None] * slope[:, :-1]).ravel(), minlength=len(by_path))
            for j, c in enumerate((alone, kept)):
                ends[j] += np.bincount(flat, np.repeat(c * slope[:, -1], rounds), minlength=len(by_path))
    return by_path, ends.T


def _rank_correlation(a: Floats, b: Floats) -> float:
    from scipy.stats import spearmanr

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)
