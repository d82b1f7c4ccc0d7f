"""The bucket table of a log that is larger than memory, when models or policies must see its rows as arrays.

Two passes over batches. The first draws a bounded sample by hash of the row, to fit on, or gives every batch to a model
that learns by `partial_fit`; the second predicts, weighs and sums batch by batch. Folds are a hash of the unit, so a
row's fold is the same in both. What is in memory is the sample, the models, one batch and the bucket table, whatever
the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.array_scan import ArrayScan
from counterlog.core.buckets import UNITS_A_BUCKET, BucketTable
from counterlog.core.crossfit import FoldModels, Predict, action_features, fit_folds, folds_of, make_model
from counterlog.core.engine_scan import supported
from counterlog.core.engines import batches, scans
from counterlog.core.estimators import Estimator
from counterlog.core.features import Encoder
from counterlog.core.frames import collect
from counterlog.core.hashing import row_keys, scatter
from counterlog.core.intervals import BUCKETS
from counterlog.core.policies import LoggedColumn, Policy, Table
from counterlog.core.rounds import ESTIMATED, Rounds

Floats = NDArray[np.float64]
Progress = Callable[[str, float], None]
SAMPLE, BATCH = 300_000, 100_000
BEST_FIXED = "best-fixed"
_PARTS, _SAMPLE_SALT = 1 << 40, 211


def streamable(log: Rounds, estimators: Sequence[Estimator]) -> bool:
    """Whether the question can be answered batch by batch: nothing but the reward model is fitted on the whole log."""
    rowwise = not any(e.prepares for e in estimators)
    return rowwise and scans(log.frame) and log.available_column is None and log.propensity_role != ESTIMATED


@dataclass(frozen=True)
class Learnt:
    """What the first pass found: the encoder, the models by reward, and the best single action by reward and fold."""

    encoder: Encoder | None = None
    models: dict[str, FoldModels] = field(default_factory=dict)
    best: dict[str, dict[int, int]] = field(default_factory=dict)


def scan_streamed(
    log: Rounds,
    policies: Sequence[Policy | str],
    estimators: Sequence[Estimator],
    rewards: Sequence[str],
    segments: Sequence[str],
    *,
    model: Any = "boosting",
    folds: int = 3,
    rng: int = 0,
    sample: int = SAMPLE,
    batch: int = BATCH,
    record: bool = False,
    progress: Progress | None = None,
) -> BucketTable:
    """The same table as `ArrayScan`'s over the whole log, from batches of `batch` rows.

    Its reward models are fitted on about `sample` rows; on all of them when the log has no more.
    Raises `SupportError` when a policy agrees with no row of the log, unless `record` drops it with that reason.
    """
    say = progress or (lambda _text, _share: None)
    learnt = learn(log, policies, estimators, rewards, model=model, folds=folds, rng=rng, sample=sample,
                   batch=batch, progress=lambda t, s: say(t, s / 2))  # fmt: skip
    exact = _few_units(log)
    total: BucketTable | None = None
    for part in parts(log, policies, batch):
        part.action, part.propensity_role and part.propensity  # noqa: B018 - made once for all rewards
        plan = ArrayScan(part, part=True)
        x = None if learnt.encoder is None else learnt.encoder.transform(part.context)
        fold = folds_of(part, folds, rng=rng)
        for reward in rewards:
            view = part.with_reward(reward)
            q = learnt.models[reward].predict(x, fold) if x is not None else None
            for policy in policies:
                plan.add(view, _own(policy, part, learnt.best.get(reward), fold), estimators, q, rng=rng)
        table = plan.scan(segments, exact=exact)
        total = table if total is None else total + table
        say("estimating", 0.5 + 0.5 * (part.first_row + part.n) / log.n)
    assert total is not None  # a log has rows
    return supported(total, log.n, record=record)


def _few_units(log: Rounds) -> bool | None:
    """Whether each unit of the whole log gets a bucket of its own; None when rows are their own units."""
    if log.unit_column is None:
        return None
    units = collect(log.frame.select(nw.col(log.unit_column).n_unique())).item()
    return bool(units < UNITS_A_BUCKET * BUCKETS)


def learn(
    log: Rounds,
    policies: Sequence[Policy | str],
    estimators: Sequence[Estimator],
    rewards: Sequence[str],
    *,
    model: Any,
    folds: int,
    rng: int,
    sample: int,
    batch: int,
    progress: Progress,
) -> Learnt:
    """The first pass. Nothing is read when nothing must be learnt."""
    needs_q, needs_best = any(e.needs_model for e in estimators), BEST_FIXED in policies
    if not needs_q and not needs_best:
        return Learnt()
    online = needs_q and hasattr(model, "partial_fit")
    drawn: list[tuple[Rounds, NDArray[np.int64]]] = []
    sums = {r: np.zeros((2, folds, len(log.actions))) for r in rewards}
    for part in parts(log, (), batch):
        fold = folds_of(part, folds, rng=rng)
        if needs_best:
            for reward in rewards:
                sums[reward] += _sums_by_action(part, part.reward_of(reward), fold, folds)
        if needs_q:
            keys = row_keys(part.n, part.first_row)
            kept = np.flatnonzero(scatter(keys, _PARTS, salt=_SAMPLE_SALT + rng) < sample / log.n * _PARTS)
            drawn.append((part.take(kept), fold[kept]))
        progress("reading the log", (part.first_row + part.n) / log.n)
    best = {r: _best_of_other_folds(s) for r, s in sums.items()} if needs_best else {}
    if not needs_q:
        return Learnt(best=best)
    context = pl.concat([d.context for d, _ in drawn])
    encoder = Encoder.fit(context)
    x, action = encoder.transform(context), np.concatenate([d.action for d, _ in drawn])
    fold = np.concatenate([f for _, f in drawn])
    models = {}
    for reward in rewards:
        r = np.concatenate([d.reward_of(reward) for d, _ in drawn])
        if online:
            binary = bool(np.isin(r, (0.0, 1.0)).all())
            models[reward] = _partial(log, reward, encoder, model, binary, folds, rng, batch)
        else:
            models[reward] = fit_folds(model, x, action, r, fold, len(log.actions), rng=rng)
    return Learnt(encoder, models, best)


def parts(log: Rounds, policies: Sequence[Policy | str], batch: int) -> Iterator[Rounds]:
    """The log in batches, with the columns that its roles and the policies name."""
    log.actions  # noqa: B018 - found before the reading begins: an engine answers one question at a time
    named = (p.column for p in policies if isinstance(p, LoggedColumn))
    first = 0
    for table in batches(log.frame, list(dict.fromkeys((*log.columns, *named))), batch):
        if table.height:
            yield log.part(table, first)
            first += table.height


def _partial(
    log: Rounds, reward: str, encoder: Encoder, model: Any, binary: bool, folds: int, rng: int, batch: int
) -> FoldModels:
    """Models that learnt from every batch by `partial_fit`, each from the rows of the other folds."""
    fitted = [make_model(model, binary=binary, rng=rng) for _ in range(folds)]
    classes = {"classes": np.array([0, 1])} if hasattr(fitted[0], "predict_proba") else {}
    actions = len(log.actions)
    for part in parts(log, (), batch):
        fold, x = folds_of(part, folds, rng=rng), encoder.transform(part.context)
        phi = action_features(x, part.action, actions, interact=True)
        r = part.reward_of(reward)
        for k, one in enumerate(fitted):
            if (rows := np.flatnonzero(fold != k)).size:
                one.partial_fit(phi[rows], r[rows].astype(int) if classes else r[rows], **classes)
    return FoldModels({k: _predictor(one) for k, one in enumerate(fitted)}, actions, True)


def _predictor(model: Any) -> Predict:
    if hasattr(model, "predict_proba"):
        return lambda phi: np.asarray(model.predict_proba(phi)[:, 1])
    return lambda phi: np.asarray(model.predict(phi))


def _own(policy: Policy | str, part: Rounds, best: dict[int, int] | None, fold: NDArray[np.int64]) -> Policy:
    """The policy as it answers for one batch: rows of a table are cut, and the best single action is looked up."""
    if isinstance(policy, Table):
        return Table(policy.name, policy.matrix[part.first_row : part.first_row + part.n])
    if isinstance(policy, Policy):
        return policy
    assert best is not None and policy == BEST_FIXED
    chosen = np.array([best[int(k)] for k in fold])
    return Table(BEST_FIXED, np.eye(len(part.actions))[chosen])


def _sums_by_action(log: Rounds, reward: Floats, fold: NDArray[np.int64], folds: int) -> Floats:
    """(2, folds, actions) sums of r/p and 1/p."""
    cell = fold * len(log.actions) + log.action
    w, size = 1.0 / log.propensity, folds * len(log.actions)
    both = [np.bincount(cell, v, minlength=size) for v in (w * reward, w)]
    return np.stack(both).reshape(2, folds, -1).astype(np.float64)


def _best_of_other_folds(sums: Floats) -> dict[int, int]:
    """For every fold the action with the best self-normalised value on the others, as `policies.best_fixed`."""
    best = {}
    for k in range(sums.shape[1]):
        total, mass = np.delete(sums, k, axis=1).sum(axis=1)
        value = np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), -np.inf)
        best[k] = int(np.argmax(value))
    return best
